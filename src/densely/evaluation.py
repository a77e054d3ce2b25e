"""Scores from predictions. Nothing here trains; a data set goes in, fractions come out."""

from typing import TYPE_CHECKING, Any

import numpy as np

from densely.data import Dataset, Preprocessing

if TYPE_CHECKING:
    import keras


def probabilities(
    model: "keras.Model", images: np.ndarray, preprocessing: Preprocessing, batch_size: int = 256
) -> np.ndarray:
    """What a model says of images.

    Args:
        model: from `(N, H, W, C)` to `(N, classes)` probabilities.
        images: uint8, `(N, H, W, C)`.
        preprocessing: what the model was trained with.
        batch_size: images at a time; it bounds the memory and does not change the result.

    Returns:
        float32, `(N, classes)`.
    """
    parts = [
        model.predict_on_batch(preprocessing(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(parts)


def scores(probabilities: np.ndarray, dataset: Dataset) -> dict[str, Any]:
    """Scores of predictions against the labels of a data set.

    Args:
        probabilities: `(N, classes)`.
        dataset: the N images they belong to.

    Returns:
        `n`, `accuracy` (several labels an image: of the single yes-or-no answers at one half), `loss` (mean
        negative log-likelihood in nats) and, for six classes and more, `top5_accuracy`; fractions, not percent.
    """
    n = len(dataset)
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1.0)
    if dataset.multi_label:
        truth = dataset.labels.astype(bool)
        q = np.clip(1 - probabilities.astype(np.float64), 1e-12, 1.0)
        return {
            "n": n,
            "accuracy": float(np.mean((p >= 0.5) == truth)),
            "loss": float(-np.mean(np.where(truth, np.log(p), np.log(q)))),
        }
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    found: dict[str, Any] = {
        "n": n,
        "accuracy": float(np.mean(ranked[:, 0] == dataset.labels)),
        "loss": float(-np.mean(np.log(p[np.arange(n), dataset.labels]))),
    }
    if dataset.classes > 5:
        found["top5_accuracy"] = float(np.mean((ranked[:, :5] == dataset.labels[:, None]).any(axis=1)))
    return found


def evaluate(
    model: "keras.Model", dataset: Dataset, preprocessing: Preprocessing, batch_size: int = 256
) -> dict[str, Any]:
    """`scores` of a model on a data set."""
    return scores(probabilities(model, dataset.images, preprocessing, batch_size), dataset)
