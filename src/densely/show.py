"""A picture of what a training sees: images of a few classes, each beside what the recipe's augmentation makes of it.

The variants come from the very batches that a training would be given, with the preprocessing undone for the eye.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console

from densely.console import counted
from densely.data import Dataset, Parts, Preprocessing
from densely.errors import UsageError
from densely.pictures import FAINT, GAP, INK, PAPER, SMALL, TEXT, TITLE, cut, fitting, font, resized
from densely.recipes import Recipe, choose
from densely.training.batches import Batches
from densely.training.parts import complete, load, name_of, task_of

SIDE, MARGIN, NAMES = 128, 20, 200
"""Pixels: longest side of a shown image, around the picture, at most for the class names."""
AS_IT_IS = "every image as it is"
"""What there is to say of a recipe without augmentation."""


def preview(
    source: str | Path | Dataset | Parts,
    recipe: str = "auto",
    *,
    seed: int = 0,
    data_dir: str | Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
) -> Image.Image:
    """The picture for data and a recipe, both by name: what `densely show` does.

    Args:
        source: as `densely.train` takes it. Only images to train on are shown, none of the test part.
        recipe: a name in `densely.recipes.RECIPES`.
        seed: of the split, of which images are shown, and of the augmentation.
        data_dir: where built-in data lie (default: `$DENSELY_DATA`, else `~/.cache/densely/data`).
        size: (height, width) to bring a folder's images to.
        channels: 1 or 3, to bring a folder's images to grey or RGB.
        skip_bad: leave out images that cannot be read.

    Raises:
        UsageError: for names that do not exist, or a recipe that does not fit the images.
        DataError: for data that cannot be used.
    """
    parts, name = load(source, data_dir, size, channels, Console(stderr=True), skip_bad), name_of(source)
    chosen = choose(recipe, task_of(parts, name)).recipe
    parts, _ = complete(parts, chosen.val_fraction, seed)
    return draw(parts.train, chosen, seed=seed, title=f"{Path(name).name}, recipe {recipe}")


def draw(
    train: Dataset, recipe: Recipe, *, seed: int = 0, title: str | None = None, rows: int = 10, variants: int = 8
) -> Image.Image:
    """The picture for images and a recipe: a row a class, the image as it is, then variants of it.

    Args:
        train: what a training would train on; the preprocessing is fitted to all of it.
        recipe: how it would train.
        seed: of which images are shown, and of the augmentation.
        title: what stands above all; by default where the images come from, and the recipe's name.
        rows: at most this many classes, spread evenly over those that have images.
        variants: how many of each image.

    Raises:
        UsageError: the recipe does not fit the images, or nothing is to be drawn.
    """
    if rows < 1 or variants < 1:
        raise UsageError(f"A picture of {rows} rows and {variants} variants is empty: ask for at least one of each.")
    preprocessing = Preprocessing.fit(train.images, recipe.preprocessing)
    classes, shown = one_a_class(train, rows, seed)
    found = [seen_in_training(shown, preprocessing, recipe, seed, epoch) for epoch in range(variants)]
    columns = [shown.images, *(images for images, _ in found)]
    none: list[list[str]] = [[]] * len(shown)
    captions = [none] + [
        [_shares(row, train.class_names) for row in targets] if recipe.mixes else none for _, targets in found
    ]

    cell_h, cell_w = fitting(*train.input_shape[:2], SIDE)
    step_h = cell_h + GAP + (2 * SMALL + GAP) * recipe.mixes
    # Columns of narrow images must still carry the words above the first one and below each.
    step_w = max(cell_w + GAP, SMALL * 5)
    names = [cut(train.class_names[label], TEXT, NAMES) for label in classes]
    first = MARGIN + round(max(font(TEXT).getlength(name) for name in names)) + 2 * GAP
    total = max(first + len(columns) * step_w + 2 * GAP + MARGIN, 640)
    title = title or f"{train.source}, recipe {recipe.name}"
    words = _wrapped(f"What training sees: {describe(recipe)}. {_seen(train.input_shape)}", TEXT, total - 2 * MARGIN)
    top = MARGIN + TITLE + 4 * GAP + len(words) * (TEXT + GAP)
    picture = Image.new("RGB", (total, top + SMALL + 2 * GAP + len(shown) * step_h + MARGIN), PAPER)
    pen = ImageDraw.Draw(picture)

    pen.text((MARGIN, MARGIN), cut(title, TITLE, total - 2 * MARGIN), INK, font(TITLE))
    for i, line in enumerate(words):
        pen.text((MARGIN, MARGIN + TITLE + 2 * GAP + i * (TEXT + GAP)), line, FAINT, font(TEXT))
    lefts = [first + i * step_w + (2 * GAP if i else 0) for i in range(len(columns))]
    pen.text((lefts[0], top), "as it is", FAINT, font(SMALL))
    pen.text((lefts[1], top), f"as training sees it, {variants} times (seed {seed})", FAINT, font(SMALL))
    for row, name in enumerate(names):
        y = top + SMALL + 2 * GAP + row * step_h
        pen.text((first - 2 * GAP, y + cell_h / 2), name, INK, font(TEXT), anchor="rm")
        for x, images, texts in zip(lefts, columns, captions, strict=True):
            picture.paste(resized(images[row], cell_h, cell_w), (x, y))
            for i, text in enumerate(texts[row]):
                pen.text((x, y + cell_h + 2 + i * SMALL), cut(text, SMALL, step_w - GAP), FAINT, font(SMALL))
    return picture


def describe(recipe: Recipe) -> str:
    """What a recipe's augmentation does, in words, in the order in which it happens."""
    zero = "the mean colour" if recipe.preprocessing == "standardise" else "black"
    border = "their mirror image" if recipe.fill == "reflect" else zero
    steps = [
        recipe.crop is not None and f"a random part of at least {100 * (recipe.crop or 0):.0f} % of the area, enlarged",
        recipe.turn and "turned by 0 to 3 quarters",
        recipe.flip_vertically and "upside down by chance",
        recipe.shift > 0 and f"shifted by up to {counted(recipe.shift, 'pixel')} (border: {border})",
        recipe.flip and f"mirrored left to right {'in every second epoch' if recipe.flip_in_turn else 'by chance'}",
        recipe.policy == "trivial" and "one random change of place, light or colour (TrivialAugment)",
        recipe.cutout > 0 and f"a square of {counted(recipe.cutout, 'pixel')} blanked (Cutout)",
        recipe.mixup > 0 and f"blended with another image (mixup, alpha {recipe.mixup:g})",
        recipe.mixup > 0 and recipe.cutmix > 0 and "or else",
        recipe.cutmix > 0 and f"a part of another image put in (CutMix, alpha {recipe.cutmix:g})",
    ]
    return "; ".join(step for step in steps if step).replace("; or else; ", ", or else ") or AS_IT_IS


def _seen(input_shape: tuple[int, int, int]) -> str:
    """What the eye is shown of the channels."""
    height, width, channels = input_shape
    shown = {1: "grey", 2: "2 channels, their mean shown", 3: "RGB"}.get(
        channels, f"{channels} channels, the first three shown as red, green and blue"
    )
    return f"Images of {height}x{width}, {shown}."


def one_a_class(train: Dataset, rows: int, seed: int) -> tuple[list[int], Dataset]:
    """Classes, and one image of each by chance."""
    present = np.flatnonzero(train.class_counts())
    spread = np.linspace(0, len(present) - 1, min(rows, len(present))).astype(int)
    rng = np.random.default_rng(seed)
    classes = present[spread].tolist()
    carries = train.carries()
    return classes, train.take([rng.choice(np.flatnonzero(carries[:, label])) for label in classes])


def seen_in_training(
    shown: Dataset, preprocessing: Preprocessing, recipe: Recipe, seed: int, epoch: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The one batch that a training on the shown images alone would see in an epoch, in their own order."""
    batches = Batches(shown, preprocessing, recipe.model_copy(update={"batch_size": len(shown)}), seed, training=True)
    batches.set_epoch(epoch)
    pixels, targets = batches[0]
    back = np.argsort(batches.order)
    return preprocessing.undo(pixels[back]), targets[back]


def _shares(target: NDArray[np.float32], names: tuple[str, ...]) -> list[str]:
    """The two largest shares of a mixed label."""
    largest = [i for i in np.argsort(-target, kind="stable")[:2] if target[i] >= 0.005]
    return [f"{100 * target[i]:.0f} % {names[i]}" for i in largest]


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, as far as single words allow."""
    letters, lines = font(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
