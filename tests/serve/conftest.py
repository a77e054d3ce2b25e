"""Servers that several tests ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served, coloured, served, write_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture(scope="session")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that do not need another."""
    folder = tmp_path_factory.mktemp("samples")
    for name, colour in {"a red one": (200, 30, 20), "b blue one": (10, 40, 220)}.items():
        (folder / f"{name}.png").write_bytes(coloured(*colour))
    with served(tiny, "--samples", folder) as found:
        yield found
