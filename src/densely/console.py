"""Words for a user."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def tell(console: Console, text: object, *, style: str | None = None) -> None:
    """Print as it is: paths, names and errors are neither markup, nor coloured, nor wrapped."""
    printable = str(text).encode(errors="surrogateescape").decode(errors="replace")  # a file's name may be no UTF-8
    console.print(printable, style=style, markup=False, highlight=False, soft_wrap=True)


def counted(number: int, one: str) -> str:
    """A number and what it counts: `1 class`, `2 classes`, `2,000 images`.

    Args:
        number: how many.
        one: the words for one of them; the last gets an s, or es, for several or none.
    """
    return f"{number:,} {one}{'' if number == 1 else 'es' if one.endswith('s') else 's'}"


def clock(seconds: float) -> str:
    """A duration as `m:ss` or `h:mm:ss`; from two days on as days and hours."""
    if seconds >= 48 * 3600:
        days, hours = divmod(round(seconds / 3600), 24)
        return f"{days} days {hours} h"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
