"""Stochastic gradient descent as the paper ran it: weight decay inside the gradient, on every parameter."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="densely")
class CoupledSGD(keras.optimizers.SGD):
    """SGD whose weight decay is coupled: each gradient g becomes g + λ·w before momentum sees it.

    Keras's own `weight_decay` is decoupled (w shrinks by lr·λ beside the update, outside the momentum); the
    paper's code (Torch `optim.sgd`) couples it, on kernels, γ, β and biases alike.

    Args:
        learning_rate: step size.
        momentum: 0 to 1 (default 0.9).
        nesterov: look ahead (default `True`).
        coupled_decay: λ (default 0).
        **kwargs: as in `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        coupled_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, **kwargs)
        self.coupled_decay = coupled_decay

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        if keras.backend.backend() == "torch":
            self._update_all_at_once(grads, trainable_variables, learning_rate)
        else:
            decayed = [
                g + keras.ops.cast(self.coupled_decay, g.dtype) * v
                for g, v in zip(grads, trainable_variables, strict=True)
            ]
            super()._backend_update_step(decayed, trainable_variables, learning_rate)

    def _update_all_at_once(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        # A subclass of SGD does not get Keras's multi-tensor path on torch; one update a parameter, 300 parameters
        # a network, would cost more than the whole backward pass of a small one.
        import torch

        with torch.no_grad():
            rate = float(learning_rate)
            weights = [v.value for v in trainable_variables]
            if self.coupled_decay:
                grads = torch._foreach_add(grads, weights, alpha=self.coupled_decay)
            if not self.momentum:
                torch._foreach_add_(weights, grads, alpha=-rate)
                return
            velocity = [self.momentums[self._get_variable_index(v)].value for v in trainable_variables]
            torch._foreach_mul_(velocity, self.momentum)
            torch._foreach_add_(velocity, grads, alpha=-rate)
            if self.nesterov:
                torch._foreach_add_(weights, grads, alpha=-rate)
                torch._foreach_add_(weights, velocity, alpha=self.momentum)
            else:
                torch._foreach_add_(weights, velocity)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again."""
        return {**super().get_config(), "coupled_decay": self.coupled_decay}
