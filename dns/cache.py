"""A cache of the far end's answers, for as long as their TTL allows.

There is one for each session, where questions leave for the far end. It is bounded by `MAX_ANSWERS`
and `MAX_OCTETS`; the oldest answer makes room. Failures are not cached: to ask again costs one
round trip, and may succeed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dns.upstream import Answer

MAX_ANSWERS: Final = 4096
MAX_OCTETS: Final = 1 << 20
_OVERHEAD: Final = 128
"""Octets that an answer, and each of its records, counts besides its own."""

Key = tuple[str, int]
"""A folded name, as text, and a type."""


class _Kept(NamedTuple):
    answer: Answer
    since: float
    octets: int


class Cache:
    """Answers by question. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._kept: dict[Key, _Kept] = {}
        self._octets = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Key, answer: Answer, now: float) -> None:
        """Cache an answer, unless its TTL is 0 or it is too large."""
        self._drop(key)
        octets = _octets(key, answer)
        if not answer.ttl_s or octets > MAX_OCTETS // 16:
            return
        self._kept[key] = _Kept(answer, now, octets)
        self._octets += octets
        while len(self._kept) > MAX_ANSWERS or self._octets > MAX_OCTETS:
            self._drop(next(iter(self._kept)))

    def get(self, key: Key, now: float) -> Answer | None:
        """Return an answer with the TTL that is left; None if it is not cached or has expired."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        age_s = int(now - kept.since)
        if age_s >= kept.answer.ttl_s:
            self._drop(key)
            return None
        return kept.answer.aged(age_s)

    def age(self, key: Key, now: float) -> tuple[int, int] | None:
        """Return the age of an answer and the time it has left, in seconds; None as in `get`."""
        kept = self._kept.get(key)
        if kept is None or (age_s := int(now - kept.since)) >= kept.answer.ttl_s:
            return None
        return age_s, kept.answer.ttl_s - age_s

    def clear(self) -> None:
        """Drop all answers."""
        self._kept.clear()
        self._octets = 0

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._octets -= kept.octets


def _octets(key: Key, answer: Answer) -> int:
    records = answer.records + ((answer.soa,) if answer.soa else ())
    return (
        _OVERHEAD + len(key[0]) + sum(_OVERHEAD + len(one.owner) + len(one.data) for one in records)
    )
