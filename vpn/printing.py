"""What is said to people, some of it in others' words, and how columns are made."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress


def say(line: str) -> None:
    """Say one line to the user or the log. What nobody can be told, as on a full disk, is lost."""
    with suppress(OSError):
        print(f"overlay-vpn: {printable(' '.join(line.split()))}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return a line that does nothing to a terminal: root may ask a client that is hostile."""
    return "".join(one if one.isprintable() else "?" for one in text)


def columns(rows: Sequence[Iterable[str]]) -> list[str]:
    """Return a line for each row, its words below those of the row before."""
    texts = [[printable(word) for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in texts]


def endpoint(host: str, port: int) -> str:
    """Return a host and a port as people write them (RFC 3986 §3.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
