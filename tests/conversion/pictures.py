"""Images that networks tell apart even with random weights: random smooth patches, from dark to light."""

import numpy as np


def images(shape: tuple[int, int, int, int]) -> np.ndarray:
    """uint8 of shape (n, height, width, channels)."""
    n, height, width, channels = shape
    rng = np.random.default_rng(1)
    small = rng.random((n, 4, 4, channels)) * np.linspace(0.2, 1, n)[:, None, None, None]
    large = small.repeat(-(-height // 4), axis=1).repeat(-(-width // 4), axis=2)[:, :height, :width]
    return (255 * large).astype(np.uint8)
