"""The model of one of several processes: its part of every step, the sums of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import torch
import torch.distributed as dist
from keras.layers import BatchNormalization

from densely.kernels.replicas import Replicas
from densely.layers import DenseBlock, Transition
from densely.training.batches import Batches
from densely.training.distributed.gradients import GradientSum


class Replica(keras.Model):
    """A model whose steps are one step of all processes together.

    The loss is the mean over the whole batch: each process weighs its own by its share of the images, and the
    gradients are summed. Running scores count every image once. Without `sync_bn` batch normalisation sees this
    process's images; the moving statistics are then the mean over all processes, by their shares, after every step.

    `join` must be called before the first step, and `share` set before each.
    """

    def join(self, sync_bn: bool, stepped: Callable[[], None]) -> None:
        """Take part: the same weights as the first process, sums from now on.

        Args:
            sync_bn: normalise by the statistics of the whole batch.
            stepped: called after every step.
        """
        self.stepped = stepped
        self.share = 1.0
        self.sync_bn = sync_bn
        self.gradients = GradientSum([v.value for v in self.trainable_variables])
        self.norms = [layer for layer in self._flatten_layers() if isinstance(layer, BatchNormalization)]
        self.moving = [
            v.value for norm in self.norms if norm.trainable for v in (norm.moving_mean, norm.moving_variance)
        ]
        for variable in self.variables:
            dist.broadcast(variable.value.detach(), 0)
        if sync_bn:
            for norm in self.norms:
                # Keras's own `synchronized` is for TensorFlow; the fused blocks never come here.
                norm._moments = _together(norm._moments, self)

    def leave(self) -> None:
        """Be a model of its own again."""
        self.gradients.close()
        self._shared_by(None)
        for norm in self.norms:
            vars(norm).pop("_moments", None)

    def train_step(self, data: Any) -> Any:
        """This process's part of a step; the scores of all."""
        x, y = data
        if self.sync_bn:
            self._shared_by(Replicas(self.share))
        guess = self(x, training=True)
        averaging = None if self.sync_bn else self._average_moving()
        self.zero_grad()
        loss = self.compute_loss(x=x, y=y, y_pred=guess, training=True)
        (loss * self.share).backward()
        self.gradients.wait()
        if averaging is not None:
            averaging()
        variables = self.trainable_variables
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in variables], variables)
            return self._scores(loss, y, guess)

    def test_step(self, data: Any) -> Any:
        """This process's part of a batch that is only looked at; the scores of all."""
        x, y = data
        guess = self(x, training=False)
        return self._scores(self.compute_loss(x=x, y=y, y_pred=guess, training=False), y, guess)

    def _scores(self, loss: Any, y: Any, guess: Any) -> Any:
        """Count this batch in, of all processes; an image that only keeps others company does not count."""
        values = [variable.value for variable in self.metrics_variables]
        before = torch.stack([value.detach().to(torch.float32) for value in values])
        for value in values:
            value.zero_()
        if self.share:
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss, sample_weight=len(guess))
                else:
                    metric.update_state(y, guess)
        now = torch.stack([value.detach().to(torch.float32) for value in values])
        dist.all_reduce(now)
        for value, total in zip(values, before + now, strict=True):
            value.copy_(total)
        self.stepped()
        return self.get_metrics_result()

    def _average_moving(self) -> Callable[[], None] | None:
        """Start on the mean of the moving statistics, which travel during the backward pass; call it for the end."""
        if not self.moving:
            return None
        sizes = [value.numel() for value in self.moving]
        flat = torch.cat([value.detach() for value in self.moving]).mul_(self.share)
        work = dist.all_reduce(flat, async_op=True)

        def end() -> None:
            work.wait()
            with torch.no_grad():
                torch._foreach_copy_(self.moving, torch.split(flat, sizes))

        return end

    def _shared_by(self, replicas: Replicas | None) -> None:
        for layer in self.layers:
            if isinstance(layer, DenseBlock | Transition):
                layer.replicas = replicas


class Shares(keras.callbacks.Callback):
    """Tells a replica before every step what share of the batch is its own.

    Args:
        batches: what is trained on.
        watched: what is validated on.
    """

    def __init__(self, batches: Batches, watched: Batches | None) -> None:
        super().__init__()
        self.batches, self.watched = batches, watched

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Of a batch to train on."""
        self.model.share = self.batches.share(batch)

    def on_test_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Of a batch to validate on."""
        assert self.watched is not None
        self.model.share = self.watched.share(batch)


def _together(moments: Any, replica: Replica) -> Any:
    """The batch statistics of one of Keras's layers, by the images of all processes."""

    def whole(inputs: Any, mask: Any) -> Any:
        return Replicas(replica.share).together(*moments(inputs, mask))

    return whole
