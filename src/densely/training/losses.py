"""The cross-entropy that trains: of classes, of mixed classes, of several labels an image; smoothed, weighted."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="densely")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy between labels and logits, in nats.

    Labels are class numbers `(N,)`, or distributions over the classes `(N, classes)` as mixup makes them, or, for
    several labels an image, `(N, classes)` of zeros and ones (or shares between).

    Args:
        multi_label: whether an image may have several labels: then the mean over N·classes yes-or-no answers.
        label_smoothing: ε; the target becomes (1 − ε)·target + ε/classes (Szegedy et al. 2016, Section 7), for
            several labels (1 − ε)·target + ε/2.
        class_weights: one factor a class (default 1 each). A distribution weighs what its classes weigh on average;
            for several labels the factor is on the answer "yes".
        **kwargs: as in `keras.losses.Loss`.
    """

    def __init__(
        self,
        multi_label: bool = False,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        name: str = "cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.multi_label = multi_label
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else tuple(float(w) for w in class_weights)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each image, `(N,)`."""
        classes = y_pred.shape[-1]
        weights = None if self.class_weights is None else ops.convert_to_tensor(self.class_weights, y_pred.dtype)
        if self.multi_label:
            target = ops.cast(y_true, y_pred.dtype)
            target = target * (1 - self.label_smoothing) + self.label_smoothing / 2
            yes = target if weights is None else target * weights
            return ops.mean(yes * ops.softplus(-y_pred) + (1 - target) * ops.softplus(y_pred), axis=-1)
        if len(y_true.shape) == 2 and y_true.shape[-1] == classes and classes > 1:
            target = ops.cast(y_true, y_pred.dtype)
        else:
            target = ops.one_hot(ops.reshape(y_true, (-1,)), classes, dtype=y_pred.dtype)
        smooth = target * (1 - self.label_smoothing) + self.label_smoothing / classes
        loss = -ops.sum(smooth * ops.log_softmax(y_pred, axis=-1), axis=-1)
        return loss if weights is None else loss * ops.matmul(target, weights)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this loss again."""
        return {
            **super().get_config(),
            "multi_label": self.multi_label,
            "label_smoothing": self.label_smoothing,
            "class_weights": self.class_weights,
        }
