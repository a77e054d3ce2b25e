"""How far probabilities can be believed, and how to make them more believable.

A network that says 90 % should be right nine times out of ten; modern networks are right less often than they say.
Measured as in C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017:
the expected calibration error, and temperature scaling, which divides all logits by one number T. No answer changes
by it, only how sure the network says it is.
"""

from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax

from densely.data import Dataset
from densely.evaluation.views import YES

#: Equal-width bins over [0, 1], as many as Guo et al. take.
BINS = 15
#: A temperature is looked for between these; only a network that knows less than chance comes to the upper one.
LOWEST, HIGHEST = 0.05, 20.0
#: Probabilities below are taken as this much: a certain wrong answer costs 27.6 nats, not infinitely many.
FLOOR = 1e-12


def loss(probabilities: np.ndarray, dataset: Dataset) -> float:
    """Mean negative log-likelihood in nats: of an image's label, or (several labels an image) of a single answer.

    Args:
        probabilities: `(N, classes)`.
        dataset: the N images they belong to.
    """
    p = probabilities.astype(np.float64)
    said = np.where(dataset.labels == 1, p, 1 - p) if dataset.multi_label else p[np.arange(len(p)), dataset.labels]
    return float(-np.mean(np.log(np.clip(said, FLOOR, 1.0))))


def reliability(probabilities: np.ndarray, dataset: Dataset) -> list[dict[str, Any]]:
    """The bins of a reliability diagram: how sure the answers were, and how often they were right.

    An answer is the likeliest class and its probability; with several labels an image, each single yes or no at
    one half and the probability of that, which is never below one half.

    Args:
        probabilities: `(N, classes)`.
        dataset: the N images they belong to.

    Returns:
        `BINS` bins of equal width over [0, 1], bin i from 0 of the answers in (i / `BINS`, (i + 1) / `BINS`]: `count`,
        and the mean `confidence` and `accuracy` of its answers, `None` where there are none.
    """
    count, confidence, right = _bins(probabilities, dataset)
    return [
        {
            "count": int(n),
            "confidence": float(c / n) if n else None,
            "accuracy": float(r / n) if n else None,
        }
        for n, c, r in zip(count, confidence, right, strict=True)
    ]


def expected_calibration_error(probabilities: np.ndarray, dataset: Dataset) -> float:
    """ECE: the distance between confidence and accuracy of a bin of `reliability`, averaged over all answers (0 to 1).

    Args:
        probabilities: `(N, classes)`.
        dataset: the N images they belong to.
    """
    count, confidence, right = _bins(probabilities, dataset)
    return float(np.abs(confidence - right).sum() / count.sum())


def fit_temperature(probabilities: np.ndarray, dataset: Dataset) -> float:
    """The temperature that suits a validation part best: above 1 where the network was too sure of itself.

    Maximum likelihood, as in Guo et al., but against Platt's smoothed labels (J. Platt, *Probabilistic Outputs for
    Support Vector Machines*, 1999): each label is held to be wrong with probability 1 / (N + 2). Without that, a part
    that is classified without mistakes has no best temperature: ever smaller ones make every answer ever surer. With
    many images it makes no difference; with few it keeps the network from being surer than so few can show.

    Args:
        probabilities: `(N, classes)`, of images that the network was not trained on, zeros and ones allowed.
        dataset: the N images they belong to.

    Returns:
        T, between `LOWEST` and `HIGHEST`.
    """
    from scipy.optimize import minimize_scalar  # half a second, which `densely predict` need not wait for

    smoothed = _Likelihood(probabilities, dataset, doubt=1 / (len(dataset) + 2))
    # The loss is convex in 1 / T, so in log T it still has one valley only, and a bounded search finds its floor.
    found = minimize_scalar(smoothed.loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.clip(np.exp(found.x), LOWEST, HIGHEST))


def temperature_interval(probabilities: np.ndarray, dataset: Dataset, temperature: float) -> tuple[float, float]:
    """The 95 % confidence interval of a fitted temperature; with 1 in it, nobody can say that the temperature helps.

    All temperatures whose log-likelihood is less than 1.92 below the highest (half of χ²'s 3.84), of the labels as they
    are, not Platt's: what is smoothed for safety is no evidence. As the answers for one image hang together, and
    dividing by T is not the whole truth, the differences are first scaled down as far as the spread of the images'
    gradients demands (R. E. Chandler, S. Bate, *Inference for clustered data using the independence loglikelihood*,
    Biometrika 2007).

    Args:
        probabilities: `(N, classes)`, those that the temperature was fitted to.
        dataset: the N images they belong to.
        temperature: from `fit_temperature`; it belongs to the interval, wherever smoothing has moved it.

    Returns:
        (low, high), between `LOWEST` and `HIGHEST`.
    """
    from scipy.optimize import brentq, minimize_scalar

    likelihood, ends = _Likelihood(probabilities, dataset, doubt=0.0), (np.log(LOWEST), np.log(HIGHEST))
    best = minimize_scalar(likelihood.loss, bounds=ends, method="bounded").x
    allowed = likelihood.loss(best) + 1.92 * likelihood.overdispersion(best)

    def beyond(log_temperature: float) -> float:
        return likelihood.loss(log_temperature) - allowed

    reached = [end if beyond(end) <= 0 else brentq(beyond, *sorted((best, end))) for end in ends]
    low, high = np.clip(np.exp(reached), LOWEST, HIGHEST).tolist()
    return min(low, temperature), max(high, temperature)


class _Likelihood:
    """How well a temperature suits labels, each held to be wrong with probability `doubt`."""

    def __init__(self, probabilities: np.ndarray, dataset: Dataset, doubt: float) -> None:
        self.multi_label = dataset.multi_label
        self.logits = _logits(probabilities, self.multi_label)
        n, classes = self.logits.shape
        if self.multi_label:
            self.target = np.where(dataset.labels == 1, 1 - doubt, doubt)
        else:
            self.target = np.full((n, classes), doubt / max(1, classes - 1))
            self.target[np.arange(n), dataset.labels] = 1 - doubt

    def loss(self, log_temperature: float) -> float:
        """The negative log-likelihood in nats, of all images together."""
        scaled = self.logits / np.exp(log_temperature)
        if self.multi_label:
            return float(-np.sum(self.target * log_expit(scaled) + (1 - self.target) * log_expit(-scaled)))
        return float(-np.sum(self.target * log_softmax(scaled, axis=1)))

    def overdispersion(self, log_temperature: float) -> float:
        """How many times as much the images' gradients by 1 / T vary as those of independent answers; at least 1."""
        z, scaled = self.logits, self.logits / np.exp(log_temperature)
        if self.multi_label:
            p = expit(scaled)
            expected = float((p * (1 - p) * z**2).sum())
        else:
            p = np.exp(log_softmax(scaled, axis=1))
            expected = float(((p * z**2).sum(axis=1) - (p * z).sum(axis=1) ** 2).sum())
        found = float((((p - self.target) * z).sum(axis=1) ** 2).sum())
        return max(1.0, found / expected) if expected > 0 else 1.0


def apply_temperature(probabilities: np.ndarray, temperature: float, *, multi_label: bool) -> np.ndarray:
    """Probabilities as they would be with every logit divided by a temperature.

    Args:
        probabilities: `(N, classes)`; their logits are found again from them, up to a constant that does not matter.
        temperature: T, above 0; 1 changes nothing.
        multi_label: whether they came from a sigmoid for each class, not from one softmax.

    Returns:
        float64, `(N, classes)`.
    """
    scaled = _logits(probabilities, multi_label) / temperature
    return np.asarray(expit(scaled) if multi_label else np.exp(log_softmax(scaled, axis=1)))


def with_temperature(probabilities: np.ndarray, dataset: Dataset, temperature: float) -> dict[str, float]:
    """What a temperature fitted elsewhere does for a part.

    Args:
        probabilities: `(N, classes)`.
        dataset: the N images they belong to; not those that the temperature was fitted on.
        temperature: from `fit_temperature`.

    Returns:
        `temperature`, and `ece_before`, `ece_after`, `loss_before`, `loss_after`.
    """
    after = apply_temperature(probabilities, temperature, multi_label=dataset.multi_label)
    return {
        "temperature": temperature,
        "ece_before": expected_calibration_error(probabilities, dataset),
        "ece_after": expected_calibration_error(after, dataset),
        "loss_before": loss(probabilities, dataset),
        "loss_after": loss(after, dataset),
    }


def _bins(probabilities: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per bin: number of answers, sum of their confidences, number of right ones."""
    p = probabilities.astype(np.float64)
    if dataset.multi_label:
        confidence = np.maximum(p, 1 - p).ravel()
        right = ((p >= YES) == (dataset.labels == 1)).ravel()
    else:
        confidence = p.max(axis=1)
        right = p.argmax(axis=1) == dataset.labels
    which = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    return (
        np.bincount(which, minlength=BINS),
        np.bincount(which, weights=confidence, minlength=BINS),
        np.bincount(which, weights=right, minlength=BINS),
    )


def _logits(probabilities: np.ndarray, multi_label: bool) -> np.ndarray:
    p = probabilities.astype(np.float64)
    log_p = np.log(np.clip(p, FLOOR, 1.0))
    return log_p - np.log(np.clip(1 - p, FLOOR, 1.0)) if multi_label else log_p
