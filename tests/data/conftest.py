import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def draw(tmp_path):
    """draw("cats/a.png", size=(20, 30), mode="RGB") -> the path of a noisy image below tmp_path."""

    def drawn(name, size=(40, 40), mode="RGB", seed=0, **save):
        h, w = size
        bands = len(Image.new(mode, (1, 1)).getbands())
        noise = np.random.default_rng(seed).integers(0, 256, (h, w, bands), dtype=np.uint8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise if bands > 1 else noise[..., 0]).save(path, **save)
        return path

    return drawn


@pytest.fixture
def pets(draw, tmp_path):
    """A folder of two classes, four images each, of several formats."""
    for i, suffix in enumerate(["png", "jpg", "webp", "BMP"]):
        draw(f"pets/cat/{i}.{suffix}", seed=i)
        draw(f"pets/dog/{i}.{suffix}", seed=10 + i)
    return tmp_path / "pets"
