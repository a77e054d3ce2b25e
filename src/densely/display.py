"""What a notebook shows of a run and of a network, as HTML: `run` or `model` at the end of a cell is enough.

Nothing here is loaded from elsewhere, and no colour is fixed that a dark theme would swallow: lines and letters take
the page's own. Whatever a user can have named is escaped.
"""

from __future__ import annotations

import itertools
import math
from html import escape
from typing import TYPE_CHECKING, Any

from densely.console import counted
from densely.cost import parameters
from densely.errors import DenselyError

if TYPE_CHECKING:
    import keras

    from densely.runs import Run

#: Of the two curves; both can be read on white and on black.
TRAIN, VALIDATE = "#4c8bd0", "#f08a24"
#: At most so many class names are shown.
NAMES = 12
#: Size of one chart, and what its numbers take of it, in pixels.
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 260, 130, 50, 18, 18

_FAINT = "opacity: .65"
_BOX = "border: 1px solid; border-color: color-mix(in srgb, currentColor 45%, transparent); border-radius: 5px"


def card(run: Run) -> str:
    """A run on one card: score, data, network, recipe, learning curve, folder. What is not there yet is left out."""
    config = run.config
    recipe, (height, width, channels) = config.recipe, run.inputs.input_shape
    history, notes = _history(run)
    try:
        scores = run.scored()
    except DenselyError as error:
        scores, notes = [], [*notes, str(error)]
    else:
        if not scores:
            notes = [f"Not finished: {len(history)} of {counted(recipe.epochs, 'epoch')}.", *notes]
    head = "".join(
        f'<div><span style="font-size: 1.7em; font-weight: 600">{escape(value)}</span> &ensp;{escape(name)} '
        f'<span style="{_FAINT}">({escape(note)})</span></div>'
        for name, value, note in scores
    )
    head += "".join(f"<div><i>{escape(note)}</i></div>" for note in notes)
    names = ", ".join(run.inputs.class_names[:NAMES]) + (", …" if len(run.inputs.class_names) > NAMES else "")
    facts = {
        "Data": f"{config.data}: {height}×{width}×{channels}, {counted(config.network.classes, 'class')} ({names})",
        "Network": f"{config.model}: {' + '.join(map(str, config.network.block_layers))} layers, "
        f"k = {config.network.growth_rate}; {parameters(config.network):,} trainable parameters",
        "Recipe": f"{recipe.name}: {counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, {recipe.optimizer}, "
        f"learning rate {recipe.learning_rate:g}, seed {config.seed}",
        "Folder": str(run.folder),
    }
    rows = "".join(
        f'<div><span style="display: inline-block; min-width: 5.5em; {_FAINT}">{key}</span> {escape(value)}</div>'
        for key, value in facts.items()
    )
    return (
        f'<div style="{_BOX}; padding: .6em .9em; display: inline-block; max-width: 48em; line-height: 1.5; '
        f'overflow-wrap: anywhere">{head}{rows}{_curves(history, config.watched)}</div>'
    )


def _history(run: Run) -> tuple[list[dict[str, float]], list[str]]:
    """The epochs, and what is to be said where they cannot be read."""
    if not (run.folder / "history.csv").is_file():
        return [], []
    try:
        return run.history, []
    except DenselyError as error:
        return [], [str(error)]


def _curves(history: list[dict[str, float]], watched_part: str) -> str:
    charts = [_chart("accuracy (%)", "accuracy", 100, history), _chart("loss", "loss", 1, history)]
    if not any(charts):
        return ""
    watched = any("val_accuracy" in row for row in history)
    legend = f'<span style="color: {TRAIN}">training</span>'
    legend += f' &ensp;<span style="color: {VALIDATE}">{watched_part}</span>' if watched else ""
    return f'<div style="margin-top: .5em">{"".join(charts)}<div style="font-size: .9em">{legend}</div></div>'


def _chart(title: str, column: str, times: float, history: list[dict[str, float]]) -> str:
    """One small chart over the epochs, training and validation; empty without a number to show."""
    curves = {
        colour: [
            (row.get("epoch", i), times * row[name])
            for i, row in enumerate(history, start=1)
            if math.isfinite(row.get(name, math.nan))
        ]
        for colour, name in ((TRAIN, column), (VALIDATE, f"val_{column}"))
    }
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    xs, ys = zip(*points, strict=True)
    low, high, first, last = min(ys), max(ys), min(xs), max(xs)

    def at(x: float, y: float) -> tuple[float, float]:
        right, up = (x - first) / ((last - first) or 1), (y - low) / ((high - low) or 1)
        return LEFT + right * (WIDTH - LEFT - 10), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM - 6)

    drawn = ""
    for colour, curve in curves.items():
        path = [at(x, y) for x, y in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
        drawn += f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        if len(path) == 1:  # a line of one point would not be seen
            drawn += f'<circle cx="{path[0][0]:.1f}" cy="{path[0][1]:.1f}" r="2.5" fill="{colour}"/>'
    top, floor = at(first, high)[1], at(first, low)[1]
    texts = [
        (LEFT, 11, "start", title),
        (LEFT - 5, top + 4, "end", f"{high:.3g}"),
        (LEFT - 5, floor + 4, "end", f"{low:.3g}" if high > low else ""),
        (LEFT, HEIGHT - 4, "start", f"{first:g}"),
        (WIDTH - 10, HEIGHT - 4, "end", f"{last:g}" if last > first else ""),
        ((LEFT + WIDTH - 10) / 2, HEIGHT - 4, "middle", "epoch"),
    ]
    words = "".join(
        f'<text x="{x:g}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" stroke="none">{text}</text>'
        for x, y, anchor, text in texts
    )
    axes = f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM + 2}H{WIDTH - 8}" fill="none" stroke="currentColor" opacity=".4"/>'
    return (
        f'<svg role="img" aria-label="{title} by epoch" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-size="10" font-family="sans-serif">{axes}{drawn}{words}</svg>'
    )


def network(model: keras.Model) -> str | None:
    """One of our networks as a row of boxes; `None` for any other model, which keeps what Keras gives it.

    Ours is a chain of layers with dense blocks in it: what comes before the first is the stem, what follows the last
    the classifier.
    """
    from densely.layers import DenseBlock

    chain = _chain(model)
    blocks = [i for i, layer in enumerate(chain) if isinstance(layer, DenseBlock)]
    if not blocks:
        return None
    first, last = blocks[0], blocks[-1]
    stem, rest = chain[1:first], chain[last + 1 :]
    boxes = [_box("image", [_size(model.input.shape)])]
    if stem:
        boxes.append(_box("stem", [_channels(stem), _size(stem[-1].output.shape)], stem))
    for layer in chain[first : last + 1]:
        lines = [_channels([layer]), _size(layer.output.shape)]
        if isinstance(layer, DenseBlock):
            k = f"k = {layer.growth_rate}"
            lines = [f"{counted(layer.num_layers, 'layer')}, {k}{', bottleneck' * layer.bottleneck}", *lines]
        boxes.append(_box(layer.name.replace("_", " "), lines, [layer], strong=isinstance(layer, DenseBlock)))
    if rest:
        boxes.append(_box("classifier", [f"{rest[0].input.shape[-1]} channels", f"→ {model.output.shape[-1]}"], rest))
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    head = (
        f"<div><b>{escape(model.name)}</b>: {model.count_params():,} parameters, {trainable:,} of them trainable</div>"
    )
    arrow = f'<div style="align-self: center; {_FAINT}">→</div>'
    row = f'<div style="display: flex; flex-wrap: wrap; gap: .4em; margin-top: .4em">{arrow.join(boxes)}</div>'
    return f'<div style="line-height: 1.4">{head}{row}</div>'


def _chain(model: keras.Model) -> list[Any]:
    """The layers of a model from input to output, if each reads the one before it and nothing else; else none."""
    import keras

    try:
        layers = list(model.layers)
        if not isinstance(model.input, keras.KerasTensor) or not isinstance(model.output, keras.KerasTensor):
            return []
        chained = all(after.input is before.output for before, after in itertools.pairwise(layers))
        return layers if chained and layers[0].output is model.input and layers[-1].output is model.output else []
    except (AttributeError, ValueError):  # a model or a layer that was never called
        return []


def _channels(layers: list[Any]) -> str:
    return f"{layers[0].input.shape[-1]} → {layers[-1].output.shape[-1]} channels"


def _size(shape: tuple[Any, ...]) -> str:
    """Height and width of maps."""
    height, width = ("any" if side is None else side for side in shape[1:3])
    return f"{height}×{width}"


def _box(name: str, lines: list[str], layers: list[Any] | None = None, *, strong: bool = False) -> str:
    count = sum(layer.count_params() for layer in layers or [])
    small = [*lines, f"{count:,} parameters"] if count else lines
    words = "".join(f"<div>{escape(line)}</div>" for line in small)
    edge = "; border-width: 2px; border-color: currentColor" if strong else ""
    return (
        f'<div style="{_BOX}{edge}; padding: .3em .7em; text-align: center">'
        f'<b>{escape(name)}</b><div style="font-size: .85em">{words}</div></div>'
    )


def shown(model: keras.Model) -> str | None:
    """`network`, or what a model of another class says of itself: a printer for a type goes before its methods."""
    own = getattr(model, "_repr_html_", None)
    return own() if own is not None else network(model)
