"""The pictures of docs/dense-block.md.

    python docs/draw_dense_block.py     # writes docs/images/dense-*.svg

On white cards, so that they can be read on a dark page too. Nothing is measured here: the last picture's curves are
formulas, held to what autograd keeps by tests/docs/test_pictures.py, its bars are the table of docs/benchmarks.md.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

IMAGES = Path(__file__).parent / "images"
INK, SOFT, CARD, RED = "#263238", "#78909c", "#ffffff", "#c62828"
MAPS = ("#b0bec5", "#7fa8d1", "#f7b267", "#8cc084", "#c9a0c4")
"""Of the block's input, and of what each of four layers adds."""
OURS, THEIRS, THIRD = "#1f6feb", "#e8710a", "#90a4ae"
#: docs/benchmarks.md, "Depth": GiB at 12 and at 24 layers.
MEASURED = {"densely": (0.37, 0.66), "checkpoint": (1.22, 2.52), "textbook PyTorch": (1.65, 4.11)}
START, GROWTH, BOTTLENECK = 24, 12, 48
"""C₀, k and b of the blocks of DenseNet-BC-100-12."""


def kept_by_densely(layers: int, start: int = START, growth: int = GROWTH, bottleneck: int = BOTTLENECK) -> int:
    """Bytes a pixel kept for the backward pass in float32, without dropout: one buffer, and each bottleneck."""
    return 4 * (start + layers * growth) + 4 * layers * bottleneck


def kept_by_textbook(layers: int, start: int = START, growth: int = GROWTH, bottleneck: int = BOTTLENECK) -> int:
    """The same of a concatenating program: each concatenation and its relu(BN), each bottleneck and its relu(BN)."""
    read = sum(start + layer * growth for layer in range(layers))
    return 4 * 2 * read + 4 * 2 * layers * bottleneck


def canvas(width: float, height: float, across: float, up: float) -> tuple[Figure, Axes]:
    """A white card, `across` by `up` units."""
    figure = plt.figure(figsize=(width, height))
    card(figure)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set(xlim=(0, across), ylim=(0, up))
    axes.axis("off")
    return figure, axes


def card(figure: Figure) -> None:
    """White, with round corners, on nothing."""
    figure.patch.set_alpha(0)
    figure.add_artist(
        FancyBboxPatch(
            (0.015, 0.015), 0.97, 0.97, boxstyle="round,pad=0,rounding_size=0.02", transform=figure.transFigure,
            facecolor=CARD, edgecolor="none", zorder=-1,
        )
    )  # fmt: skip


def slab(
    axes: Axes, x: float, y: float, which: int, width: float, height: float, text: str = "", **more: object
) -> None:
    """Maps: a box in the colour of whoever made them."""
    options = {"facecolor": MAPS[which], "edgecolor": CARD, "linewidth": 1.5, **more}
    axes.add_patch(Rectangle((x, y), width, height, **options))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, fontsize=11)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0, **more: object) -> None:
    """From one point to another."""
    options = {"color": SOFT, "linewidth": 1.4, "arrowstyle": "-|>", "mutation_scale": 11, **more}
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0, **options))


def words(axes: Axes, x: float, y: float, text: str, **more: object) -> None:
    """Text."""
    axes.text(x, y, text, **{"color": INK, "fontsize": 11, "va": "center", **more})


def connectivity() -> Figure:
    """Who reads whom, and what a concatenating program copies for it."""
    figure, axes = canvas(5.8, 5.5, 12, 11.4)
    words(axes, 0.3, 11, "Every layer reads all maps before it", fontweight="bold")
    spots = [0.9 + 2.4 * i for i in range(5)]
    for reader in range(1, 5):
        for source in range(reader):
            arrow(
                axes, (spots[source] + 0.5, 8.25), (spots[reader] + 0.1 + 0.09 * source, 8.25), -0.38,
                color=MAPS[source], linewidth=2,
            )  # fmt: skip
    for i, x in enumerate(spots):
        slab(axes, x, 7.2, i, 1.0, 1.0, "x" if i == 0 else str(i))
        words(axes, x + 0.5, 6.8, "input" if i == 0 else f"layer {i}", ha="center", fontsize=10, color=SOFT)

    words(axes, 0.3, 5.7, "A concatenating program makes each of these twice:", fontweight="bold")
    words(axes, 0.3, 5.15, "the concatenation, and relu(BN) of it", fontsize=10.5)
    for row, layer in enumerate(range(1, 5)):
        y = 3.85 - 1.0 * row
        words(axes, 0.3, y + 0.38, f"layer {layer} reads", fontsize=10, color=SOFT)
        for copy in range(2):
            x = 3.0 + 4.6 * copy
            slab(axes, x, y, 0, 1.3, 0.76, "x")
            for i in range(1, layer):
                slab(axes, x + 1.3 + 0.95 * (i - 1), y, i, 0.95, 0.76, str(i))
    words(axes, 0.3, 0.4, "1 + 2 + 3 + … layers: memory that grows with the square of the depth", fontsize=10.5)
    return figure


def one_buffer() -> Figure:
    """The buffer, its slices, who reads what, and the shared statistics."""
    figure, axes = canvas(5.8, 4.9, 12, 10.2)
    left, widths = 2.6, (2.6, 1.6, 1.6, 1.6, 1.6)
    edges = [left + sum(widths[:i]) for i in range(6)]
    words(axes, 0.3, 9.8, "One buffer: M pixels in rows, channels in columns", fontweight="bold")
    for i, width in enumerate(widths):
        text = "x" if i == 0 else f"layer {i}"
        slab(axes, edges[i], 6.4, i, width, 2.3, text)
        words(axes, edges[i] + width / 2, 9.1, "$C_0$" if i == 0 else "$k$", ha="center", color=SOFT)
    axes.annotate("", (left - 0.25, 6.4), (left - 0.25, 8.7), arrowprops={"arrowstyle": "<->", "color": SOFT})
    words(axes, 0.3, 7.55, "M =\nN·H·W", color=SOFT)

    for layer in range(1, 5):
        y = 5.75 - 0.62 * (layer - 1)
        words(axes, 0.3, y, f"layer {layer}", fontsize=10, color=SOFT)
        axes.plot([edges[0] + 0.06, edges[layer] - 0.06], [y, y], color=SOFT, linewidth=5, solid_capstyle="butt")
        axes.add_patch(Rectangle((edges[layer] + 0.06, y - 0.16), 1.48, 0.32, facecolor=MAPS[layer]))
    words(axes, edges[1], 3.15, "reads the first C channels in place", ha="center", fontsize=10, color=SOFT)
    words(axes, 9.9, 3.15, "writes its slice", ha="center", fontsize=10, color=SOFT)

    words(axes, 0.3, 2.35, "Mean and 1/σ of a map: once, as its slice is written", fontweight="bold")
    for i, width in enumerate(widths):
        slab(axes, edges[i], 0.75, i, width, 0.55)
        slab(axes, edges[i], 1.3, i, width, 0.55)
    words(axes, 0.3, 1.57, "mean")
    words(axes, 0.3, 1.02, "rstd")
    words(axes, 0.3, 0.35, "All later layers use them; each has its own γ and β.", fontsize=10.5)
    return figure


def backward() -> Figure:
    """Layer 3's turn in the backward pass."""
    figure, axes = canvas(5.8, 6.3, 12, 13)
    widths = (1.5, 0.85, 0.85, 0.85, 0.85)
    words(axes, 0.3, 12.6, "Layer 3's turn; layer 4 is done. Chunk by chunk:", fontweight="bold")
    places = {}
    for name, left in (("G", 0.4), ("the buffer", 6.7)):
        edges = places[name] = [left + sum(widths[:i]) for i in range(6)]
        title = "the gradient buffer G" if name == "G" else name
        words(axes, left + sum(widths) / 2, 11.9, title, ha="center")
        for i, width in enumerate(widths):
            slab(axes, edges[i], 8.6, i, width, 2.9, alpha=0.35)
            words(axes, edges[i] + width / 2, 11.1, "x" if i == 0 else str(i), ha="center", fontsize=10, color=SOFT)
            if i < 4:
                slab(axes, edges[i], 9.2, i, width, 0.8)
        axes.add_patch(Rectangle((edges[0], 9.2), edges[4] - edges[0], 0.8, fill=False, edgecolor=INK, linewidth=1.5))

    def box(x: float, y: float, width: float, text: str, colour: str = SOFT) -> None:
        style = "round,pad=0,rounding_size=0.15"
        axes.add_patch(FancyBboxPatch((x, y), width, 1.15, boxstyle=style, facecolor="#f5f7f8", edgecolor=colour))
        words(axes, x + width / 2, y + 0.57, text, ha="center", fontsize=10.5)

    box(1.4, 5.9, 5.2, "① $G_3$ − rstd·($A$ + $\\hat{x}$·$B$)/$M$")
    box(7.0, 5.9, 4.6, "② again: $a$ = relu($s$·$x$ + $t$)")
    box(0.4, 3.4, 2.6, "④ $G$ += $s$·$d$", RED)
    box(3.5, 3.4, 8.1, "③ convolution backward: ∂kernel, $d$ where $a$ > 0")
    box(0.4, 0.9, 11.2, "⑤ sums:  ∂β = $D$ = Σ $d$,   ∂γ = Σ $d$·$\\hat{x}$;   $A$ += γ·$D$,   $B$ += γ·∂γ")
    third, first = places["G"][3] + 0.42, places["the buffer"][1] + 0.42
    arrow(axes, (third, 9.2), (third, 7.1))
    arrow(axes, (places["the buffer"][3] + 0.42, 9.2), (6.2, 7.1))
    arrow(axes, (first, 9.2), (first, 7.1))
    arrow(axes, (third + 0.4, 5.9), (third + 1.2, 4.6))
    arrow(axes, (first, 5.9), (first, 4.6))
    arrow(axes, (3.5, 3.97), (3.0, 3.97))
    arrow(axes, (0.85, 4.55), (0.85, 9.2), color=RED, linewidth=1.8)
    arrow(axes, (first, 3.4), (first, 2.1))
    words(axes, 0.3, 0.4, "G of x, 1, 2 grows; A and B wait until those maps' own turn.", fontsize=10.5)
    return figure


def memory() -> Figure:
    """Memory against depth: by formula, and as measured."""
    figure = plt.figure(figsize=(5.8, 6.0))
    card(figure)
    above, below = figure.subplots(2, 1, height_ratios=(1.5, 1))
    figure.subplots_adjust(left=0.13, right=0.94, top=0.92, bottom=0.1, hspace=0.45)
    depths = range(1, 49)
    above.plot(depths, [kept_by_textbook(d) / 1024 for d in depths], color=THEIRS, linewidth=2.2)
    above.plot(depths, [kept_by_densely(d) / 1024 for d in depths], color=OURS, linewidth=2.2)
    above.text(33, kept_by_textbook(33) / 1024 + 4, "concatenating", color=THEIRS, ha="right", fontsize=11)
    above.text(40, kept_by_densely(40) / 1024 + 5, "one buffer", color=OURS, ha="center", fontsize=11)
    above.set_title("Kept for the backward pass, by formula", fontsize=11, loc="left", fontweight="bold", color=INK)
    above.set(
        xlabel="layers of the block (C₀ = 24, k = 12, bottleneck)", ylabel="KiB a pixel", xlim=(0, 49), ylim=(0, None)
    )
    above.set_xticks([0, 12, 24, 36, 48])

    for offset, (name, values) in enumerate(MEASURED.items()):
        colour = {"densely": OURS, "textbook PyTorch": THEIRS}.get(name, THIRD)
        places = [group * 4 + (2 - offset) for group in (1, 0)]
        below.barh(places, values, color=colour, height=0.85)
        for y, value in zip(places, values, strict=True):
            below.text(value + 0.06, y, f"{value:.2f}  {name}", va="center", fontsize=10, color=INK)
    below.set_title(
        "Measured, GiB (batch 64, 32×32, dropout 0.2)", fontsize=11, loc="left", fontweight="bold", color=INK
    )
    below.set_yticks([5, 1], ["12\nlayers", "24\nlayers"])
    below.set(xlim=(0, 6.4), xlabel="GiB")
    below.tick_params(axis="y", length=0)
    for axes in (above, below):
        axes.patch.set_alpha(0)
        axes.grid(alpha=0.25, axis="both" if axes is above else "x")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


PICTURES = {
    "dense-connectivity": connectivity,
    "dense-buffer": one_buffer,
    "dense-backward": backward,
    "dense-memory": memory,
}


if __name__ == "__main__":
    plt.rcParams.update({"svg.hashsalt": "densely", "mathtext.fontset": "dejavusans"})
    for name, draw in PICTURES.items():
        draw().savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
