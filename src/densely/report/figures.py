"""The report's figures, as Matplotlib draws them: for the page, and as PNG and SVG beside it for papers and slides."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import numpy as np
from markupsafe import escape
from matplotlib import rc_context, rcParamsDefault
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from densely import cost
from densely.console import counted
from densely.errors import DataError
from densely.files import write_whole

if TYPE_CHECKING:
    from densely.report.gathering import Findings
    from densely.runs import Run

INK, LINE, PAPER = "#20242b", "#d5d9df", "#ffffff"
"""Of text, of grids, of the ground: on the page they become the page's own, light or dark."""
TRAIN, VALIDATE, BEFORE, AFTER, MARK = "#3d7edb", "#e0770a", "#b3261e", "#2e8b57", "#3d7edb"
"""Told apart by colour-blind readers too, and on light and dark ground alike."""
SEVERAL = ("#3d7edb", "#e0770a", "#2e8b57", "#b3261e", "#8e5bc2", "#0f8f9c")
"""Of several runs; more of them take dashed lines."""
BARS, NUMBERED, LABELLED = 25, 20, 120
"""Most classes with a bar each, with numbers in the confusion matrix, with names beside it."""

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": LINE,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}


P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the report's style, whatever the user's own settings are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **options)

    return drawn


@styled
def loss(run: Run) -> Figure:
    """Loss of training and validation, epoch by epoch."""
    return _curves(run, "loss", "loss (nats)", 1.0)


@styled
def accuracy(run: Run) -> Figure:
    """Accuracy of training and validation, epoch by epoch, in percent."""
    return _curves(run, "accuracy", "accuracy (%)", 100.0)


@styled
def learning_rate(run: Run) -> Figure:
    """The learning rate at the end of each epoch."""
    figure, axes = one_axes(4.6, 1.7)
    history = run.history
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["learning_rate"] for row in history], color=INK, marker=_marker(len(epochs)))
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    _whole_epochs(axes, epochs)
    return figure


@styled
def overlaid(opened: Sequence[Run], names: Sequence[str], key: str, label: str, scale: float) -> Figure:
    """One column of `history.csv` of several runs, a curve each."""
    figure, axes = one_axes(5.0, 3.2)
    epochs: list[float] = []
    for number, (run, name) in enumerate(zip(opened, names, strict=True)):
        colour, line = SEVERAL[number % len(SEVERAL)], "-" if number < len(SEVERAL) else "--"
        rows = [row for row in run.history if key in row]
        if rows:
            x, y = [row["epoch"] for row in rows], [scale * row[key] for row in rows]
            epochs += x
            axes.plot(x, y, color=colour, ls=line, marker=_marker(len(rows)), label=shortened(name, 28), lw=1.5)
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(axis="y", lw=0.6)
    axes.legend(fontsize=7.5)
    _whole_epochs(axes, sorted(epochs))
    return figure


@styled
def confusion(findings: Findings) -> Figure:
    """The confusion matrix, rows the truth; in many classes, those that are taken for one another stand together."""
    counts = np.array(findings.scores["confusion_matrix"], dtype=float)
    names, classes = findings.run.inputs.class_names, len(counts)
    order = together(counts) if classes > NUMBERED else np.arange(classes)
    counts = counts[np.ix_(order, order)]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.42 * classes + 1.6, 3.6, 7.5)) if classes <= NUMBERED else 15.0
    figure, axes = one_axes(side, side)
    # Faint values must still be seen: most of a large matrix is nearly nothing.
    cells = np.zeros((*share.shape, 4))
    cells[..., :3] = np.array([61, 126, 219]) / 255
    mistakes = share * (1 - np.eye(classes))
    cells[..., 3] = np.sqrt(share)
    cells[mistakes > 0, :3] = np.array([214, 69, 40]) / 255
    axes.imshow(cells, interpolation="none", aspect="equal")
    if classes <= NUMBERED:
        for row, column in np.argwhere(counts > 0):
            colour = "#fefefe" if cells[row, column, 3] > 0.6 else INK
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    if classes <= LABELLED:
        size = 9 if classes <= NUMBERED else min(8.0, 650 / classes)
        ticks = np.arange(classes)
        labels = [shortened(names[i], 18) for i in order]
        upright = classes <= NUMBERED and max(map(len, labels)) <= 3
        axes.set_xticks(ticks, labels, rotation=0 if upright else 90, fontsize=size)
        axes.set_yticks(ticks, labels, fontsize=size)
        axes.tick_params(length=0)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set(xlabel="what the network said", ylabel="what it was")
    for spine in axes.spines.values():
        spine.set(visible=True, color=LINE)
    return figure


def together(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order of classes in which those that are taken for one another are neighbours: average-linkage clustering."""
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distance = 1 - np.minimum(1, (share + share.T) / 2)
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    return np.asarray(leaves_list(optimal_leaf_ordering(linkage(condensed, "average"), condensed)), dtype=np.int64)


@styled
def per_class(findings: Findings) -> Figure:
    """A bar a class, the worst first: recall, or the average precision of several labels an image."""
    score = "average_precision" if findings.held_out.multi_label else "recall"
    rows = {n: row for n, row in findings.scores["per_class"].items() if row[score] is not None}
    worst = sorted(rows, key=lambda n: (rows[n][score], n))[:BARS]
    figure, axes = one_axes(4.6, 0.75 + 0.23 * max(1, len(worst)))
    values = [100 * rows[name][score] for name in worst]
    axes.barh(range(len(worst)), values, color=MARK, height=0.7)
    for y, value in enumerate(values):
        axes.text(value + 1, y, f"{value:.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(worst)), [shortened(name, 22) for name in worst])
    axes.set(xlim=(0, 112), xticks=[0, 25, 50, 75, 100], ylim=(len(worst) - 0.4, -0.6))
    axes.set_xlabel(f"{score.replace('_', ' ')} (%)" + (f", the worst {BARS}" if len(rows) > BARS else ""))
    axes.grid(axis="x", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return figure


@styled
def reliability(findings: Findings) -> Figure:
    """Confidence against accuracy; how many answers there are of each confidence below."""
    figure = Figure(figsize=(4.6, 4.4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    ruled(above)
    ruled(below)
    above.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=":", label="as it should be")
    groups = [("as trained", findings.scores["reliability"], BEFORE)]
    if findings.reliability_after is not None:
        groups.append(("with temperature", findings.reliability_after, AFTER))
    width = 100 / len(findings.scores["reliability"])
    for number, (label, bins, colour) in enumerate(groups):
        told = [b for b in bins if b["count"]]
        sizes = [8 + 60 * np.sqrt(b["count"] / sum(c["count"] for c in told)) for b in told]
        x, y = [100 * b["confidence"] for b in told], [100 * b["accuracy"] for b in told]
        above.plot(x, y, color=colour, lw=1.2, label=label)
        above.scatter(x, y, s=sizes, color=colour, zorder=3)
        lefts = [(i + 0.5 * number) * width for i in range(len(bins))]
        below.bar(lefts, [b["count"] for b in bins], width / 2, align="edge", color=colour)
    above.set(ylabel="right (%)", xlim=(0, 101), ylim=(0, 103))
    above.legend(loc="upper left", fontsize=8)
    below.set(xlabel="confidence (%)", ylabel="answers")
    return figure


@styled
def balance(findings: Findings) -> Figure:
    """Images of each class, by part."""
    parts = {"train": findings.parts.train, "val": findings.parts.val, "test": findings.parts.test}
    counts = {name: part.class_counts() for name, part in parts.items() if part is not None}
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")
    cut = len(order) > BARS
    names = findings.run.inputs.class_names
    shown = [*order[: BARS // 2], *order[-(BARS - BARS // 2) :]] if cut else list(order)
    figure, axes = one_axes(4.6, 0.75 + 0.23 * len(shown))
    left = np.zeros(len(shown))
    colours = {"train": TRAIN, "val": VALIDATE, "test": AFTER}
    for name, values in counts.items():
        axes.barh(range(len(shown)), values[shown], left=left, color=colours[name], height=0.7, label=name)
        left += values[shown]
    axes.set_yticks(range(len(shown)), [shortened(names[i], 22) for i in shown])
    axes.set(ylim=(len(shown) - 0.4, -0.6))
    axes.set_xlabel("images" + (", the most and the least frequent classes" if cut else ""))
    axes.grid(axis="x", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


@styled
def network(run: Run) -> Figure:
    """The network from image to classes: a box a stage, with the size of its maps."""
    spec = run.config.network
    found = cost.stages(spec)
    height, width, channels = spec.input_shape
    layers = iter(zip(spec.block_layers, spec.growth_rates, strict=True))
    boxes = [("image", f"{height}×{width}×{channels}", "", LINE)]
    for stage in found:
        h, w, c = stage.shape
        if stage.name.startswith("dense_block"):
            number, growth = next(layers)
            kind = "bottleneck layer" if spec.bottleneck else "layer"
            words, colour = f"{counted(number, kind)}, each adds {counted(growth, 'map')}", TRAIN
        elif stage.name.startswith("transition"):
            words, colour = f"1×1 to {c} maps, then half the size", VALIDATE
        elif stage.name == "classifier":
            words, colour = "mean of each map, one linear layer", AFTER
        else:
            stems = {
                "cifar": "3×3",
                "imagenet": "7×7/2, pooling",
                "whitened": "whitening, 3×3/2",
                "pooled": "whitening, 3×3, pooling",
            }
            words, colour = stems[spec.stem], LINE
        size = counted(spec.classes, "class") if stage.name == "classifier" else f"{h}×{w}×{c}"
        boxes.append((stage.name.replace("_", " "), size, words, colour))
    figure, axes = one_axes(4.6, 0.56 * len(boxes) + 0.1)
    axes.set_axis_off()
    axes.set(xlim=(0, 10), ylim=(len(boxes), -0.05))
    for i, (name, size, words, colour) in enumerate(boxes):
        axes.add_patch(
            FancyBboxPatch(
                (0.1, i + 0.08), 9.8, 0.62, boxstyle="round,pad=0,rounding_size=0.12", fc=(*to_rgb(colour), 0.18),
                ec=colour, lw=1.2, mutation_aspect=0.5,
            )
        )  # fmt: skip
        axes.text(0.35, i + 0.27 if words else i + 0.39, name, va="center", fontsize=9, weight="bold")
        axes.text(9.65, i + 0.39, size, va="center", ha="right", fontsize=9)
        axes.text(0.35, i + 0.52, words, va="center", fontsize=7.5)
        if i:
            axes.annotate("", (5, i + 0.08), (5, i - 0.3), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.8})
    return figure


@styled
def reuse(values: NDArray[np.float64], number: int, last: bool) -> Figure:
    """What the readers of a dense block (across) read of each source (down): mean absolute weight."""
    readers = len(values)
    figure, axes = one_axes(2.9, 2.9)
    top = float(np.nanmax(values)) or 1.0
    colours = np.zeros((*values.shape, 4))
    known = ~np.isnan(values)
    strength = np.where(known, values, 0) / top
    low, high = np.array([61, 126, 219]), np.array([214, 39, 40])
    colours[..., :3] = (low + (high - low) * strength[..., None]) / 255
    colours[..., 3] = np.where(known, 0.12 + 0.88 * strength, 0)
    axes.imshow(colours, interpolation="none")
    step = max(1, readers // 8)
    across = [str(i + 1) for i in range(readers - 1)] + ["classes" if last else "transition"]
    down = ["input", *(str(i + 1) for i in range(readers - 1))]
    chosen = sorted({*range(0, readers - 1, step)} - ({readers - 2} if step > 1 else set()) | {readers - 1})
    axes.set_xticks(chosen, [across[i] for i in chosen], rotation=90 if readers > 5 else 0, fontsize=7.5)
    rows = [*range(0, readers, step)]
    axes.set_yticks(rows, [down[i] for i in rows], fontsize=7.5)
    axes.tick_params(length=2)
    axes.set(xlabel="reading layer", ylabel="source", title=f"Dense block {number}, strongest {top:.2g}")
    axes.add_patch(Rectangle((-0.5, -0.5), readers, readers, fill=False, ec=LINE, lw=0.8))
    return figure


class Drawn(NamedTuple):
    """A figure that is drawn.

    Attributes:
        figure: Matplotlib's.
        svg: the whole SVG file, the same text for the same figure.
        alt: what it shows, for readers who do not see it.
    """

    figure: Figure
    svg: str
    alt: str


def finished(name: str, figure: Figure, alt: str) -> Drawn:
    """Draw a figure once, for the page and for its file; `name` tells its parts from those of others on a page."""
    # Ticks are made only now, in the style of now.
    with _style(**{"svg.hashsalt": name}), _any_script(), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
        text = file.getvalue()
    figure.set_layout_engine("none")  # it is laid out now, and doing it again is most of the time of a drawing
    return Drawn(figure, text, alt)


def inline(drawn: Drawn) -> str:
    """A figure as SVG for the inside of a page: in the page's own colours, and told to readers who do not see it."""
    text = drawn.svg[drawn.svg.index("<svg") :]
    # Matplotlib numbers its groups in each figure from 1, but a page may have an id once only.
    text = re.sub(r' id="(?:figure|axes|patch|text|line2d|legend|xtick|ytick|Path|Poly|matplotlib\.)[^"]*"', "", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace(LINE, "var(--line)").replace(PAPER, "none")
    text = re.sub(r"font: ?([^;\"]*?)(\d+(?:\.\d+)?px) [^;\"]*", r"font: \1\2 var(--font)", text)
    found = re.search(r'width="([\d.]+)pt"', text)
    wide = round(float(found.group(1)) * 4 / 3) if found else 440
    return re.sub(
        r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>",
        lambda tag: f'<svg viewBox="{tag[1]}" role="img" aria-label="{escape(drawn.alt)}" style="--wide:{wide}px">',
        text,
        count=1,
    )


def write(drawn: Drawn, folder: Path, name: str) -> None:
    """Write a figure as NAME.svg and NAME.png.

    Raises:
        DataError: if they cannot be written.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror or error}.") from None
    write_whole(folder / f"{name}.svg", lambda aside: aside.write_text(drawn.svg, encoding="utf-8"))
    with _style(), _any_script():
        write_whole(folder / f"{name}.png", lambda aside: drawn.figure.savefig(aside, format="png", dpi=200))


def shortened(text: str, most: int) -> str:
    """A class's name in one line of at most so many letters, and not taken for mathematics by Matplotlib."""
    text = " ".join(text.split())
    text = text if len(text) <= most else text[: most - 1] + "…"
    if text.startswith("_"):
        text = "\u200b" + text  # else no legend would show it
    return text.replace("$", r"\$")


@contextmanager
def _any_script() -> Iterator[None]:
    """A name in a script that Matplotlib's font lacks is drawn as boxes in the PNG; the SVG has its letters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def _style(**more: Any) -> AbstractContextManager[None]:
    # The backend is the user's: `rc_context` would change it for good. Figures here are saved, never shown.
    default = {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    return rc_context({**default, **STYLE, **more})  # type: ignore[dict-item]


def _curves(run: Run, name: str, label: str, scale: float) -> Figure:
    figure, axes = one_axes(4.6, 2.9)
    history = run.history
    epochs = [row["epoch"] for row in history]
    for key, colour, words in ((name, TRAIN, "training"), (f"val_{name}", VALIDATE, run.config.watched)):
        rows = [row for row in history if key in row]
        if rows:
            marker = _marker(len(rows))
            x, y = [row["epoch"] for row in rows], [scale * row[key] for row in rows]
            axes.plot(x, y, color=colour, marker=marker, label=words, lw=1.6)
    axes.set(xlabel="epoch", ylabel=label)
    if name == "accuracy":
        axes.set_ylim(top=101)
    axes.grid(axis="y", lw=0.6)
    axes.legend(fontsize=8)
    _whole_epochs(axes, epochs)
    return figure


def one_axes(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of so many inches with one pair of axes."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def ruled(axes: Any) -> None:
    """Faint lines across, behind everything."""
    axes.grid(axis="y", lw=0.6)
    axes.set_axisbelow(True)


def _marker(points: int) -> str:
    """A line of one point cannot be seen."""
    return "o" if points == 1 else ""


def _whole_epochs(axes: Any, epochs: list[float]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if epochs:
        axes.set_xlim(min(epochs[0], epochs[-1] - 1), max(epochs[-1], epochs[0] + 1))
