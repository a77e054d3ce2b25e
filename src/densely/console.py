"""Words for a user on a console."""

from rich.console import Console


def tell(console: Console, text: object, *, style: str | None = None) -> None:
    """Print as it is: paths, names and errors are neither markup, nor coloured, nor wrapped."""
    console.print(str(text), style=style, markup=False, highlight=False, soft_wrap=True)
