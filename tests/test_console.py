"""Words for a user: as they are, durations, counts."""

import io

import pytest
from rich.console import Console

from densely.console import clock, counted, tell


def test_words_are_neither_markup_nor_coloured_nor_wrapped() -> None:
    with io.StringIO() as file:
        path = "runs/[bold]photos[/bold]-1/" + 40 * "a long name "
        tell(Console(file=file, width=20, force_terminal=True), path)
        assert file.getvalue() == f"{path}\n"


def test_a_file_s_name_need_not_be_utf_8() -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as file:
        tell(Console(file=file), "caf\udce9.png, café.png")
        file.seek(0)
        assert file.read() == "caf�.png, café.png\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (86_400, "24:00:00"), (310_000, "3 days 14 h")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_counted() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 12_345)] == ["0 images", "1 image", "2 images", "12,345 images"]
    assert [counted(n, "class") for n in (1, 10)] == ["1 class", "10 classes"]
