"""A file that is refused: in one sentence that names it, and with nothing written."""

from pathlib import Path

import pytest

from densely import conversion
from densely.errors import DataError


def refused(path: Path, words: str) -> None:
    out = path.with_name("out.safetensors")
    with pytest.raises(DataError) as told:
        conversion.convert(path, out)
    message = str(told.value)
    assert words in message
    assert path.name in message and "\n" not in message
    assert not out.exists()
