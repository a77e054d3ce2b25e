"""The README's picture: how the digits were learnt, and what the network says of test images.

densely train digits
python docs/draw_result.py runs/digits-1 docs/images/digits.png
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from densely import Run
from densely.evaluation import probabilities
from densely.training.parts import parts_of

ROWS, COLUMNS = 3, 9
TRAIN, VALIDATE, WRONG = "#4c78a8", "#f58518", "#c0392b"


def draw(folder: str, target: str) -> None:
    """Draw the run in `folder` to `target` (its ending chooses the format)."""
    run = Run.open(folder)
    history = run.history
    test = parts_of(run).test
    assert test is not None
    p = probabilities(run.model(), test.images, run.preprocessing)
    guess, certainty = p.argmax(axis=1), p.max(axis=1)
    wrong = np.flatnonzero(guess != test.labels)
    right = np.flatnonzero(guess == test.labels)
    # All mistakes first, then the right answers that were the least certain.
    shown = [*wrong[np.argsort(-certainty[wrong])], *right[np.argsort(certainty[right])]][: ROWS * COLUMNS]

    figure = plt.figure(figsize=(11, 3.7), dpi=160, layout="constrained")
    curve, gallery = figure.subfigures(1, 2, width_ratios=(1, 1.7))
    axes = curve.subplots()
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [100 * (1 - row["accuracy"]) for row in history], color=TRAIN, label="training")
    axes.plot(epochs, [100 * (1 - row["val_accuracy"]) for row in history], color=VALIDATE, label="validation")
    axes.axhline(100 * (1 - run.accuracy), color="0.3", ls=":", label=f"test, once: {100 * (1 - run.accuracy):.2f} %")
    axes.set_yscale("symlog", linthresh=1)  # logarithmic, but no error at all has its place too
    axes.set_yticks([0, 0.5, 1, 10, 100], ["0", "0.5", "1", "10", "100"])
    axes.set_ylim(bottom=-0.05)
    axes.set(xlabel="epoch", ylabel="error (%)", title=f"{run.config.model} on {run.config.data}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)

    cells = gallery.subplots(ROWS, COLUMNS)
    gallery.suptitle(
        f"Test images: all {len(wrong)} mistakes of {len(test)} (red), then the least certain", fontsize=11
    )
    for axis, i in zip(cells.flat, shown, strict=True):
        axis.imshow(test.images[i].squeeze(), cmap="gray_r", interpolation="nearest")
        mistaken = guess[i] != test.labels[i]
        answer = f"{test.class_names[guess[i]]}  {100 * certainty[i]:.0f} %"
        title = f"{answer}\nis {test.class_names[test.labels[i]]}" if mistaken else answer
        axis.set_title(title, fontsize=8, color=WRONG if mistaken else "black")
        axis.axis("off")
    figure.savefig(target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/draw_result.py RUN PICTURE")
    draw(sys.argv[1], sys.argv[2])
