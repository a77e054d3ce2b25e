"""The pictures of a report: two pieces of its page as Chromium shows them, and an image explained.

densely train digits
python docs/draw_report.py runs/digits-1 docs/images
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from densely import Run, explain
from densely.training.parts import parts_of

PIECES = {"report-verdict": ("verdict", "learning"), "report-mistakes": ("mistakes", "looks")}
"""Of each picture the first and the last section."""


def draw(folder: str, target: str) -> None:
    """Draw the report of the run in `folder` into the folder `target`."""
    run = Run.open(folder)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1080, "height": 900})
        page.goto((run.folder / "report.html").resolve().as_uri())
        page.add_style_tag(content="nav { position: static !important; }")
        for name, ends in PIECES.items():
            first, last = (page.locator(f"section[aria-labelledby={end}]").bounding_box() for end in ends)
            assert first is not None
            assert last is not None
            height = last["y"] + last["height"] - first["y"]
            clip = {"x": first["x"] - 8, "y": first["y"] - 8, "width": first["width"] + 16, "height": height + 16}
            page.screenshot(path=f"{target}/{name}.png", clip=clip, full_page=True)
        browser.close()

    test = parts_of(run).test
    assert test is not None
    p = run.predictions["test"]
    wrong = np.flatnonzero(p.argmax(axis=1) != test.labels)
    shown = wrong[p[wrong].max(axis=1).argmax()] if len(wrong) else p.max(axis=1).argmin()
    explain.draw(explain.explain(run, test.images[shown])).save(Path(target) / "explained.png")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/draw_report.py RUN FOLDER")
    draw(sys.argv[1], sys.argv[2])
