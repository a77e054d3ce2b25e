"""What Densely says when something is wrong: one sentence, what and where and what to do.

Two kinds, because the shell wants to know who has to act: `UsageError` (exit code 2) when what was asked for
cannot be, `DenselyError` and its other children (exit code 1) when the request was fine and the world was not.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


MOST = 200
"""Signs of a value that an error shows."""


class DenselyError(Exception):
    """A failure with a sentence for the user; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(DenselyError, ValueError):
    """What was asked for cannot be: an unknown name, an impossible depth, a path that is not there."""

    exit_code = 2


class DataError(DenselyError):
    """Data that was found but cannot be used: damaged, empty, mislabelled, not an image."""


def reason(error: BaseException) -> str:
    """What another library's error says, on one line; its kind where it says nothing."""
    return " ".join(str(error).split())[:MOST] or type(error).__name__


def unknown(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that is not in a registry, with the nearest names first.

    Args:
        kind: what the name should have been, e.g. `"network"`.
        name: what was typed.
        choices: every name that would have worked.
    """
    known = list(choices)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}."
    return UsageError(f"There is no {kind} named {name!r}: {hint}")


def from_validation(what: str, error: "ValidationError") -> UsageError:
    """A pydantic error in one sentence: the first thing that is wrong, where it stands, and what was given.

    Args:
        what: what was being checked, e.g. `"network"` or a file's path.
        error: pydantic's report.
    """
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return UsageError(message)
    where, given = ".".join(str(part) for part in first["loc"]), repr(first["input"])
    given = given if len(given) <= MOST else f"{given[:MOST]}…"
    return UsageError(f"{what}: {where}={given}: {message[0].lower()}{message[1:]}.")
