"""The page of `densely serve cifar10`, as Chromium shows it after a click on a sample.

python docs/draw_serve.py docs/images/serve.png        (CIFAR-10 in DENSELY_DATA)
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from densely import data


def draw(target: str, number: int = 7) -> None:
    """Draw the page into the file `target`: the first test image of each class as samples, one of them clicked."""
    test = data.load("cifar10").test
    assert test is not None
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        for label, name in enumerate(test.class_names):
            Image.fromarray(test.images[np.flatnonzero(test.labels == label)[0]]).save(Path(folder) / f"{name}.png")
        command = [sys.executable, "-m", "densely", "serve", "cifar10", "--port", "0", "--samples", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            found = (re.search(r"http://\S+", line) for line in server.stdout)
            address = next(match.group() for match in found if match)
            browser = driver.chromium.launch(
                executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1080, "height": 900}, device_scale_factor=1)
            page.goto(address)
            page.locator("#samples button").nth(number).click()
            page.locator("#bars li").first.wait_for()
            page.locator("#heat").wait_for()
            page.wait_for_timeout(500)
            page.screenshot(path=target, full_page=True)
            browser.close()
            server.terminate()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/draw_serve.py FILE.png")
    draw(sys.argv[1])
