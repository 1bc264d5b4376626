"""What is printed that others have said, and how columns are made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    """Return a line that does nothing to a terminal: root may ask a client that is hostile."""
    return "".join(one if one.isprintable() else "?" for one in text)


def columns(rows: Sequence[Iterable[str]]) -> list[str]:
    """Return a line for each row, its words below those of the row before."""
    texts = [[printable(word) for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in texts]
