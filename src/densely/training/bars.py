"""What moves while something is under way: a line in a terminal, one display in a notebook, nothing in a log.

Rich draws the terminal's line. In a notebook it would need ipywidgets, and print every kept line as an output of its
own; there a single display is updated instead.
"""

import time
from collections.abc import Mapping
from html import escape
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from densely.console import tell

#: So many kept lines stand below a notebook's bar while it moves; at the end all of them do.
RECENT = 8
#: Least seconds between two messages to a notebook: its page draws each of them.
PAUSE = 0.1


class Live(Protocol):
    """A bar, and the lines that stay when it has gone.

    Attributes:
        moves: whether `show` does anything, so that its figures are worth computing.
    """

    moves: bool

    def show(self, title: str, done: int, total: int | None, figures: str = "") -> None:
        """Move the bar to `done` of `total` steps; the first call makes it."""

    def keep(self, line: str, cells: Mapping[str, str]) -> None:
        """Keep a line; `cells` are the same figures by name, for a table."""

    def close(self) -> None:
        """Remove the bar; also after an interruption, and more than once."""


def live(console: Console) -> Live:
    """What suits a console: `InTerminal`, `InNotebook` or, for a file or a quiet console, `InLog`."""
    if console.is_jupyter and not console.quiet:
        return InNotebook()
    return InTerminal(console) if console.is_terminal else InLog(console)


class InLog:
    """Only the lines that stay."""

    moves = False

    def __init__(self, console: Console) -> None:
        self.console = console

    def show(self, title: str, done: int, total: int | None, figures: str = "") -> None:
        """Nothing moves in a log."""

    def keep(self, line: str, cells: Mapping[str, str]) -> None:
        """Print the line."""
        # Not wrapped and not coloured: the lines stay one an epoch in a narrow window or a log, and can be searched.
        tell(self.console, line)

    def close(self) -> None:
        """There is nothing to remove."""


class InTerminal(InLog):
    """A bar on the last line of the terminal."""

    moves = True

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar: Progress | None = None

    def show(self, title: str, done: int, total: int | None, figures: str = "") -> None:
        """Move the bar; Rich draws it eight times a second."""
        if self._bar is None:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
                transient=True,
                refresh_per_second=8,
            )
            self._task = self._bar.add_task(title, total=total, figures=figures)
            self._bar.start()
        self._bar.update(self._task, description=title, completed=done, total=total, figures=figures)

    def close(self) -> None:
        """Remove the bar, and give the cursor back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class InNotebook:
    """One display of a cell, updated: a bar above a table of the kept lines."""

    moves = True

    def __init__(self) -> None:
        self._handle: Any = None
        self._lines: list[str] = []
        self._rows: list[Mapping[str, str]] = []
        self._now: tuple[str, int, int | None] | None = None
        self._sent = -PAUSE

    def show(self, title: str, done: int, total: int | None, figures: str = "") -> None:
        """Move the bar."""
        new = self._now is None or self._now[0] != title
        self._now = (title, done, total)
        if not new and done != total and time.monotonic() - self._sent < PAUSE:
            return
        count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        # Without a value the bar only says that something is under way.
        value = "" if total is None else f' value="{done}" max="{total}"'
        bar = (
            f'<div><b>{escape(title)}</b> <progress{value} style="width: 14em"></progress> '
            f"{count} &ensp; {escape(figures)}</div>"
        )
        self._update(bar + table(self._rows[-RECENT:]), f"{title}  {count}  {figures}")

    def keep(self, line: str, cells: Mapping[str, str]) -> None:
        """Add a row to the table."""
        self._now = None
        self._lines.append(line)
        self._rows.append(cells)
        self._update(table(self._rows[-RECENT:]), line)

    def close(self) -> None:
        """Leave the whole table; below it how far the bar had come, if it was not at the end of a line."""
        if self._handle is None:
            return
        lines, html = list(self._lines), table(self._rows)
        if self._now is not None:
            title, done, total = self._now
            lines.append(f"{title}: {done:,}" + ("" if total is None else f" of {total:,}"))
            html += f"<div>{escape(lines[-1])}</div>"
        self._update(html, "\n".join(lines))
        self._handle = None

    def _update(self, html: str, text: str) -> None:
        from IPython.display import display

        self._sent = time.monotonic()
        bundle = {"text/html": html, "text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


def table(rows: list[Mapping[str, str]]) -> str:
    """An HTML table of rows with the same names, in a box that scrolls where there are many; empty without rows."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(row.get(n, ''))}</td>" for n in names) + "</tr>" for row in rows)
    return (
        '<div style="max-height: 34em; overflow: auto"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
