"""The pictures of docs/design.md: the rooms of `src/densely`, and the two ways through them.

    python docs/draw_house.py     # writes docs/images/house.svg, way-of-a-batch.svg, way-of-a-prediction.svg

On white cards, so that they can be read on a dark page too. `LEVELS` is no drawing alone: tests/test_directions.py
holds the imports of the package to it.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
INK, SOFT, CARD, LINE = "#263238", "#5c6f79", "#ffffff", "#b0bec5"
WIDTH, MARGIN = 420, 14
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

LEVELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "what a user types": ("#e8eaf6", ("__main__", "cli", "commands")),
    "around a training": ("#e3f2fd", ("sweeps", "serve", "export", "bulk", "report", "show")),
    "training": ("#ffe0b2", ("training",)),
    "a trained network": (
        "#e0f2f1",
        (
            "runs", "model_file", "pretrained", "building", "transfer", "fine_tuning", "conversion", "prediction",
            "explain", "display",
        ),
    ),
    "how to train, how good it is": ("#fff9c4", ("recipes", "evaluation")),
    "networks and images": ("#e8f5e9", ("architecture", "layers", "whitening", "cost", "notebook", "fused", "data")),
    "the dense block, fused": ("#fce4ec", ("kernels",)),
    "beneath all": (
        "#eceff1",
        ("errors", "interruption", "files", "machine", "console", "loopback", "pictures", "version"),
    ),
}  # fmt: skip
"""From the top: a room imports what stands on its own level or on those below."""

BATCH = (
    ("data", "files, or an archive", "uint8 (n, H, W, C), labels (n,): read, checked, cached"),
    ("training/parts", "which images", "train, val, test: indices that follow from the seed"),
    ("training/preparation", "recipe, network, optimizer", "one RunConfig, one keras.Model, compiled"),
    ("training/batches", "step s of epoch e", "shuffled, augmented, float32 (B, H, W, C)"),
    ("training/single", "the one call of fit", "under the callbacks: conductor, keeper, …"),
    ("layers, fused", "Keras layers to tensors", "the same variables, cast by the kernels"),
    ("kernels", "dense block, transition", "(B, h, w, C₀ + L·k), and the gradients back"),
    ("training/losses", "logits to one number", "cross-entropy in nats, a mean over images"),
    ("training/optimizers", "a step of all weights", "then the averages, the history, a checkpoint"),
)
PREDICTION = (
    ("serve/connection", "a socket", "how many, and how long until a whole head"),
    ("serve/guard", "a request, its body whole", "who asks, how much, how long, how many"),
    ("serve/app", "POST /predict", "the files of a form, or one image: bytes"),
    ("serve/decoding", "bytes to pixels", "data.read_image: uint8 (H, W, C), as in training"),
    ("serve/batching", "images that wait", "together: uint8 (B, H, W, C)"),
    ("serve/engine", "ONNX Runtime", "probabilities (B, classes), maps (B, h, w, classes)"),
    ("serve/app", "the answer", "JSON; a map as a transparent PNG to lay over"),
    ("serve/page.html", "the page", "bars, and the map over the image's own pixels"),
)


def text(x: float, y: float, words: str, size: float, colour: str = INK, font: str = SANS, **more: str) -> str:
    """Words from a point on."""
    options = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    place = f'x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" font-family="{font}"'
    return f"<text {place}{options}>{escape(words)}</text>"


def arrow(top: float, bottom: float) -> str:
    """Down the middle."""
    way = f"M{WIDTH / 2:g} {top:g}V{bottom:g}"
    return f'<path d="{way}" stroke="{SOFT}" stroke-width="1.6" marker-end="url(#end)"/>'


def box(x: float, y: float, width: float, height: float, fill: str, edge: str = LINE) -> str:
    """A box with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{fill}" stroke="{edge}"/>'


def picture(title: str, height: float, parts: Sequence[str]) -> str:
    """A white card with parts on it."""
    head = (
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{SOFT}"/></marker></defs>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
            f'height="{height:g}" role="img"><title>{escape(title)}</title>',
            head,
            f'<rect width="{WIDTH}" height="{height:g}" rx="12" fill="{CARD}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def house() -> str:
    """The levels from the top, each with its rooms."""
    size, step, gap = 12.5, 25, 12
    parts, y = [], MARGIN
    inner = WIDTH - 2 * MARGIN
    for title, (colour, rooms) in LEVELS.items():
        lines: list[list[str]] = [[]]
        for room in rooms:
            wide = sum(len(name) * 0.62 * size + 24 for name in [*lines[-1], room])
            if lines[-1] and wide > inner - 12:
                lines.append([])
            lines[-1].append(room)
        height = 24 + step * len(lines) + 6
        parts.append(box(MARGIN, y, inner, height, colour))
        parts.append(text(MARGIN + 10, y + 17, title, 12.5, SOFT))
        for row, line in enumerate(lines):
            x = MARGIN + 10.0
            for room in line:
                width = len(room) * 0.62 * size + 14
                top = y + 24 + row * step
                parts.append(box(x, top, width, 20, CARD))
                parts.append(text(x + width / 2, top + 14, room, size, font=MONO, text_anchor="middle"))
                x += width + 8
        y += height + gap
        if title != list(LEVELS)[-1]:
            parts.append(arrow(y - gap + 1, y - 1))
    parts.append(text(MARGIN + 4, y + 8, "An arrow: what stands above imports what stands below, never", 12, SOFT))
    parts.append(text(MARGIN + 4, y + 24, "the other way. One exception: a training ends with its report.", 12, SOFT))
    return picture("The rooms of src/densely, from the command line down to the errors", y + 36, parts)


def way(title: str, steps: Sequence[tuple[str, str, str]], colour: str) -> str:
    """Steps from top to bottom: where, what, and what goes on to the next."""
    parts, y, height, gap = [], MARGIN, 50, 16
    inner = WIDTH - 2 * MARGIN
    for i, (room, what, gives) in enumerate(steps):
        parts.append(box(MARGIN, y, inner, height, colour))
        parts.append(text(MARGIN + 10, y + 20, room, 12.5, font=MONO, font_weight="600"))
        parts.append(text(WIDTH - MARGIN - 10, y + 20, what, 12.5, SOFT, text_anchor="end"))
        parts.append(text(MARGIN + 10, y + 39, gives, 12.5))
        y += height + gap
        if i + 1 < len(steps):
            parts.append(arrow(y - gap + 1, y - 1))
    return picture(title, y - gap + MARGIN, parts)


PICTURES = {
    "house": house,
    "way-of-a-batch": lambda: way("The way of one batch, from files to a step", BATCH, "#fff3e0"),
    "way-of-a-prediction": lambda: way("The way of one prediction, from HTTP to pixels", PREDICTION, "#e3f2fd"),
}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (IMAGES / f"{name}.svg").write_text(draw(), encoding="utf-8")
