"""Everything that a report tells of a run, gathered once: nothing here draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from densely import evaluation, show
from densely.architecture import PAPER_ERRORS, spec
from densely.data import Dataset, Parts
from densely.evaluation import probabilities
from densely.evaluation.calibration import apply_temperature, reliability, with_temperature
from densely.evaluation.views import YES
from densely.explain import Seen, features, look
from densely.layers import DenseBlock
from densely.report import suspects
from densely.runs import Run, reading
from densely.training.parts import parts_of

if TYPE_CHECKING:
    from pathlib import Path

    import keras

MISTAKES, EXAMPLES, POOL = 24, 100, 2_000
"""At most so many mistakes are shown, classes with an example, and held-out images whose features are compared."""


@dataclass(frozen=True)
class Shown:
    """One held-out image with what the network says of it.

    Attributes:
        index: in its part.
        image: uint8 `(H, W, C)`.
        truth: names of its labels.
        guess: names of the classes that the network holds it to be.
        top: the likeliest classes and their probabilities, likeliest first.
        of: the class that `heat` explains.
        of_share: its probability.
        heat: `(h, w)`: the exact class activation map.
        note: what else is to be said.
        beside: another image to see beside it, or `None`.
    """

    index: int
    image: NDArray[np.uint8]
    truth: tuple[str, ...]
    guess: tuple[str, ...]
    top: tuple[tuple[str, float], ...]
    of: str
    of_share: float
    heat: NDArray[np.float32]
    note: str = ""
    beside: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Findings:
    """What a report tells.

    Attributes:
        run: the run.
        part: which part was scored: `"test"`, or `"val"` where the test part was left alone.
        parts: all parts.
        p: float32 `(N, classes)`: the final weights' probabilities for that part.
        scores: that part's, as in `metrics.json`.
        reliability_after: bins of the reliability diagram with the temperature applied; `None` without one.
        chance: accuracy of always naming the most frequent class; `None` for several labels an image.
        nearest: accuracy of naming the class of the training image with the nearest thumbnail; `None` likewise.
        paper: the paper's accuracy for this network and these data, and the column it stands in; `None` without one.
        mistakes: worst first; for several labels an image, the images with the greatest loss.
        examples: of each class the right answer that was the surest.
        doubtful: images whose label may be wrong.
        twins: pairs of held-out and training image that may be one; `beside` is the training image.
        twin_count: how many such pairs there are in all.
        reuse: of each dense block, `(sources, readers)` mean absolute weights, NaN where a reader comes before.
        parameters: trainable ones.
        history: one row an epoch, as in `history.csv`.
    """

    run: Run
    part: str
    parts: Parts
    p: NDArray[np.float32]
    scores: dict[str, Any]
    reliability_after: list[dict[str, Any]] | None
    chance: float | None
    nearest: float | None
    paper: tuple[str, float] | None
    mistakes: list[Shown]
    examples: list[Shown]
    doubtful: list[Shown]
    twins: list[Shown]
    twin_count: int
    reuse: list[NDArray[np.float64]]
    parameters: int
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def held_out(self) -> Dataset:
        """The part that was scored."""
        part = self.parts.test if self.part == "test" else self.parts.val
        assert part is not None
        return part

    @property
    def wrong(self) -> int:
        """How many answers (several labels an image: images) were wrong."""
        return int(np.count_nonzero(_wrong(self.p, self.held_out)))


def gather(run: Run, parts: Parts | None = None, data_dir: str | Path | None = None) -> Findings:
    """Look at a finished run.

    Args:
        run: the run.
        parts: those it was trained and scored on; by default read again from its source.
        data_dir: where built-in data lie.

    Raises:
        UsageError: if the training did not finish, or its data came from Python and are not given.
        DataError: if the data, or the run's files, have changed since.
    """
    name = run.config.scored
    metrics = run.metrics
    with reading(run.folder / "metrics.json"):
        calibration = metrics[name].get("calibration")
    parts = parts_of(run, data_dir) if parts is None else parts
    held_out = parts.val if run.config.tune else parts.test
    assert held_out is not None
    model = run.model("final")
    p = _predictions(run, name, model, held_out)
    # Computed again from the predictions: `metrics.json` of an earlier version may lack some.
    scores, after = evaluation.scores(p, held_out), None
    if calibration is not None:
        with reading(run.folder / "metrics.json"):
            temperature = float(calibration["temperature"])
            fitted: dict[str, Any] = {"fitted_on": "val"}
            if "temperature_ci95" in calibration:  # which runs of earlier versions lack
                low, high = map(float, calibration["temperature_ci95"])
                fitted["temperature_ci95"] = [low, high]
        scores["calibration"] = {**fitted, **with_temperature(p, held_out, temperature)}
        after = reliability(apply_temperature(p, temperature, multi_label=held_out.multi_label), held_out)

    wrong = _wrong(p, held_out)
    doubt = np.where(wrong, _error(p, held_out), -np.inf)
    mistakes = [int(i) for i in np.argsort(-doubt, kind="stable")[: min(MISTAKES, int(wrong.sum()))]]
    examples = _examples(p, held_out)
    index, likeness = suspects.nearest_training_images(held_out, parts.train)
    pairs, twin_count = suspects.twins(index, likeness)

    doubtful = _doubtful(run, model, held_out, p)

    # Maps are large: only of the images that are shown.
    wanted = sorted({*mistakes, *(i for i, _ in examples), *(d.image for d in doubtful), *(t.held_out for t in pairs)})
    seen = look(model, run.preprocessing(held_out.images[wanted])) if wanted else None
    place = {i: row for row, i in enumerate(wanted)}

    def shown(i: int, of: int | None = None, note: str = "", beside: NDArray[np.uint8] | None = None) -> Shown:
        assert seen is not None
        return _shown(i, p, held_out, seen, place[i], of, note, beside)

    return Findings(
        run=run,
        part=name,
        parts=parts,
        p=p,
        scores=scores,
        reliability_after=after,
        chance=None if held_out.multi_label else _chance(parts.train, held_out),
        nearest=None if held_out.multi_label else float(np.mean(parts.train.labels[index] == held_out.labels)),
        paper=_paper(run),
        mistakes=[shown(i) for i in mistakes],
        examples=[shown(i, label) for i, label in examples],
        doubtful=[
            shown(
                found.image,
                note=f"{100 * found.neighbours:.0f} % of its neighbours are {held_out.class_names[found.suggestion]}",
            )
            for found in doubtful
        ],
        twins=[
            shown(
                pair.held_out,
                None,
                f"like training image {pair.train} ({', '.join(parts.train.names_of(pair.train)) or 'no label'})",
                parts.train.images[pair.train],
            )
            for pair in pairs
        ],
        twin_count=twin_count,
        reuse=reuse(model),
        parameters=sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        history=run.history,
    )


def reuse(model: keras.Model) -> list[NDArray[np.float64]]:
    """How much each layer reads of each layer before it: the paper's Figure 5.

    Returns:
        One array a dense block, `(layers + 1, layers + 1)`: sources down (the block's input, then each layer), readers
        across (each layer, then what follows the block: a transition or the classifier); the mean absolute weight that
        connects them, NaN where the reader comes before the source.
    """
    import keras

    blocks = [layer for layer in model.layers if isinstance(layer, DenseBlock)]
    followers = [layer for layer in model.layers if layer.name.startswith("transition")]
    found = []
    for number, block in enumerate(blocks):
        after = followers[number].unit.conv.kernel if number < len(followers) else model.get_layer("logits").kernel
        readers = [*(unit.conv.kernel for unit in (block.bottlenecks or block.convs)), after]
        edges = [0, *(readers[0].shape[-2] + i * block.growth_rate for i in range(len(readers)))]
        values = np.full((len(readers), len(readers)), np.nan)
        for reader, kernel in enumerate(readers):
            weights = np.abs(np.asarray(keras.ops.convert_to_numpy(kernel), dtype=np.float64))
            by_channel = weights.reshape(-1, *weights.shape[-2:]).mean(axis=(0, 2))
            for source in range(reader + 1):
                values[source, reader] = by_channel[edges[source] : edges[source + 1]].mean()
        found.append(values)
    return found


def _predictions(run: Run, name: str, model: keras.Model, held_out: Dataset) -> NDArray[np.float32]:
    path = run.folder / "predictions.safetensors"
    if path.is_file():
        with reading(path):
            p = np.asarray(run.predictions[name])
            if p.shape != (len(held_out), held_out.classes):
                raise ValueError(f"it has {len(p)} rows, and the {name} part {len(held_out)} images")
        return p
    return np.asarray(probabilities(model, held_out.images, run.preprocessing, views=run.config.recipe.views))


def _wrong(p: NDArray[np.float32], held_out: Dataset) -> NDArray[np.bool_]:
    if held_out.multi_label:
        return np.asarray(((p >= YES) != (held_out.labels == 1)).any(axis=1))
    return np.asarray(p.argmax(axis=1) != held_out.labels)


def _error(p: NDArray[np.float32], held_out: Dataset) -> NDArray[np.float64]:
    """How bad an answer is: the confidence in a wrong class; for several labels, the worst answer's error."""
    if held_out.multi_label:
        return np.asarray(np.abs(p - held_out.labels).max(axis=1), dtype=np.float64)
    return np.asarray(p.max(axis=1), dtype=np.float64)


def _doubtful(run: Run, model: keras.Model, held_out: Dataset, p: NDArray[np.float32]) -> list[suspects.DoubtfulLabel]:
    """Labels that may be wrong, among at most `POOL` held-out images, chosen by lot."""
    if held_out.multi_label:
        return []
    pool = np.sort(np.random.default_rng(0).permutation(len(held_out))[:POOL])
    seen = features(model, held_out.images[pool], run.preprocessing)
    found = suspects.doubtful_labels(p[pool], held_out.labels[pool].astype(np.int64), seen)
    return [one._replace(image=int(pool[one.image])) for one in found]


def _examples(p: NDArray[np.float32], held_out: Dataset) -> list[tuple[int, int]]:
    """Of each class the image that carries it, and of which the network is the surest; and the class."""
    found, carries = [], held_out.carries()
    for label in range(min(held_out.classes, EXAMPLES)):
        guessed = p[:, label] >= YES if held_out.multi_label else p.argmax(axis=1) == label
        right = np.flatnonzero(carries[:, label] & guessed)
        if len(right):
            found.append((int(right[p[right, label].argmax()]), label))
    return found


def _shown(
    i: int,
    p: NDArray[np.float32],
    held_out: Dataset,
    seen: Seen,
    row: int,
    of: int | None,
    note: str,
    beside: NDArray[np.uint8] | None,
) -> Shown:
    """An image with the map of class `of`; by default of what the network says, or says most wrongly."""
    names = held_out.class_names
    likeliest = np.argsort(-p[i], kind="stable")
    if held_out.multi_label:
        guess = tuple(names[c] for c in range(len(names)) if p[i, c] >= YES)
        errors = np.abs(p[i] - held_out.labels[i])
        default = int(errors.argmax()) if errors.max() >= 0.5 else int(likeliest[0])
    else:
        guess, default = (names[likeliest[0]],), int(likeliest[0])
    of = default if of is None else of
    one = Seen(seen.maps[row : row + 1], seen.logits[row : row + 1], seen.kernel, seen.bias)
    return Shown(
        index=i,
        image=held_out.images[i],
        truth=held_out.names_of(i),
        guess=guess,
        top=tuple((names[c], float(p[i, c])) for c in likeliest[:5]),
        of=names[of],
        of_share=float(p[i, of]),
        heat=one.activation_maps([of])[0],
        note=note,
        beside=beside,
    )


def _chance(train: Dataset, held_out: Dataset) -> float:
    return float(np.mean(held_out.labels == train.class_counts().argmax()))


def _paper(run: Run) -> tuple[str, float] | None:
    """What was published for this very network on these very data: the column of the paper, and the accuracy."""
    config, recipe = run.config, run.config.recipe
    base = {"cifar10": "C10", "cifar100": "C100", "svhn-extra": "SVHN"}.get(config.data)
    if base is None or config.limit is not None or config.fold is not None or config.tune:
        return None
    error = PAPER_ERRORS.get(config.model, {})
    free = ("input_shape", "classes", "activation", "dropout", "weight_decay")
    same = {name: getattr(config.network, name) for name in free}
    if not error or config.network != spec(config.model, **same):
        return None
    if recipe.shift and recipe.flip:
        base += "+"
        others = recipe.model_copy(update={"shift": 0, "flip": False})
    else:
        others = recipe
    # Any other augmentation is in no column.
    if others.mixes or show.describe(others) != show.AS_IT_IS or base not in error:
        return None
    return base, 1 - error[base] / 100
