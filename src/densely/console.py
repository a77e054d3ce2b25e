"""Words for a user on a console."""

from rich.console import Console


def tell(console: Console, text: object, *, style: str | None = None) -> None:
    """Print as it is: paths, names and errors are neither markup, nor coloured, nor wrapped."""
    console.print(str(text), style=style, markup=False, highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """A duration as `m:ss` or `h:mm:ss`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
