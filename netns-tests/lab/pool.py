"""Labs that were proven clean are used again: to build one takes longer than many a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lab.topology import Lab

KEPT = 4
"""How many idle labs there are at most: who looks through all processes sees theirs, too."""


class Pool:
    """Lends labs, by the options of `Lab`."""

    def __init__(self) -> None:
        self._idle: list[tuple[Mapping[str, Any], Lab]] = []
        self._clean: set[Lab] = set()

    @contextmanager
    def lend(self, options: Mapping[str, Any]) -> Iterator[Lab]:
        """Lend a lab that is as good as new. One that is not taken back is closed in the end."""
        lab = self._take(options) or Lab(**options).__enter__()
        try:
            yield lab
        finally:
            if lab in self._clean:
                self._clean.remove(lab)
                self._idle.append((options, lab))
                if len(self._idle) > KEPT:
                    self._idle.pop(0)[1].close()
            else:
                lab.close()

    def take_back(self, lab: Lab, timeout_s: float = 30.0) -> None:
        """Prove that a lab is clean, for whoever is next. Raises AssertionError."""
        lab.assert_clean(timeout_s)
        self._clean.add(lab)

    def close(self) -> None:
        """Close those that nobody has."""
        for _, lab in self._idle:
            lab.close()
        self._idle.clear()

    def _take(self, options: Mapping[str, Any]) -> Lab | None:
        for number, (others, lab) in enumerate(self._idle):
            if others == options:
                del self._idle[number]
                lab.renew()
                return lab
        return None
