"""Text for a terminal: untrusted words made printable, and columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    """Return a text without control characters: root may ask a hostile client, on its terminal."""
    return "".join(one if one.isprintable() else "?" for one in text)


def columns(rows: Sequence[Iterable[str]]) -> list[str]:
    """Return a line for each row, with the words of a column below each other."""
    texts = [[printable(word) for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in texts]
