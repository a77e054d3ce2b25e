"""Trained networks that come with Densely: a `.safetensors` file each, with its card (`NAME.md`) beside it.

`densely.build(weights="cifar10")`, `densely predict cifar10 photo.png`. Nothing is downloaded. Each file was made from
a run folder by `python -m densely.pretrained.make`.
"""

from __future__ import annotations

from pathlib import Path

#: By name: what they were trained on.
SHIPPED = ("cifar10",)


def path_of(name: str) -> Path:
    """Where the file of a name in `SHIPPED` lies."""
    return Path(__file__).parent / f"{name}.safetensors"


def comes_along(path: str | Path) -> bool:
    """Whether a path is the name of weights that come with Densely, and of no run folder here."""
    return str(path) in SHIPPED and not (Path(path) / "config.toml").is_file()
