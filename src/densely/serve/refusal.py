"""`Refused`: a request that is not answered, and why."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 (an answer, no fault)
    """A request that gets no answer but a sentence.

    Args:
        status: of HTTP.
        kind: a word for the metrics.
        sentence: for the client.
        headers: besides.
    """

    def __init__(self, status: int, kind: str, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind
        self.sentence = sentence
        self.headers = headers or {}


def busy(what: str) -> Refused:
    """Too much at one time: come again."""
    return Refused(503, "busy", f"{what}: ask again in a second.", {"Retry-After": "1"})
