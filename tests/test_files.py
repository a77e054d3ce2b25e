"""Files written whole, or not at all."""

import json
import os
from pathlib import Path
from typing import IO

import pytest

from densely.errors import DataError
from densely.files import write_cache, write_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"old": 1}')

    def full(aside: Path) -> None:
        aside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"metrics\.json cannot be written: No space left"):
        write_whole(path, full)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_name_that_cannot_be_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written: File name too long"):
        write_whole(tmp_path / ("a" * 250), lambda aside: aside.write_text("whole"))


def test_what_can_be_made_again_is_this_user_s_alone_and_need_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "found.json"
    write_cache(path, lambda stream: stream.write(b"[1]"))
    assert path.read_bytes() == b"[1]"
    if os.name != "nt":
        assert path.stat().st_mode & 0o077 == 0
    (tmp_path / "file").touch()
    write_cache(tmp_path / "file" / "found.json", lambda stream: stream.write(b"[1]"))

    def broken(stream: IO[bytes]) -> None:
        stream.write(b"[2")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache(path, broken)
    assert path.read_bytes() == b"[1]"
    assert [p.name for p in path.parent.iterdir()] == ["found.json"]
