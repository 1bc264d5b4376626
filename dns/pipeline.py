"""Questions to a resolver over one stream, many at once, and their answers in any order (RFC 7766).

The stream is authenticated and ordered, so identifiers only tell questions apart: they count up,
and one is not used again before `drop`. At most 65536 questions wait, and one incomplete message.
"""

from __future__ import annotations

from dns.framing import Framing, frame
from dns.upstream import Answer, build_query, read_answer

_IDENTS = 1 << 16


class Pipeline:
    """The questions of one stream that are not yet answered."""

    def __init__(self) -> None:
        self._framing = Framing()
        self._waiting: dict[int, tuple[str, int]] = {}
        self._ident = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no identifier for another question."""
        return len(self._waiting) >= _IDENTS

    def ask(self, name: str, rtype: int) -> tuple[int, bytes]:
        """Return the identifier of a new question, and octets to send.

        Not to be called while `is_full`. Raises ValueError where `name` is none.
        """
        ident = self._free_ident()
        octets = frame(build_query(ident, name, rtype))
        self._waiting[ident] = name, rtype
        return ident, octets

    def drop(self, ident: int) -> None:
        """Forget a question: it is answered, or its answer is no longer wanted."""
        del self._waiting[ident]

    def on_octets(self, octets: bytes) -> list[tuple[int, Answer]]:
        """Return the answers that octets of the stream complete, with their identifiers.

        An answer that does not fit its question is FAILED; one to a question that is not waiting
        is left out. A question stays until `drop`.
        """
        found = []
        for message in self._framing.feed(octets):
            ident = int.from_bytes(message[:2])
            if ident in self._waiting:
                found.append((ident, read_answer(message, ident, *self._waiting[ident])))
        return found

    def _free_ident(self) -> int:
        while True:
            self._ident = (self._ident + 1) % _IDENTS
            if self._ident not in self._waiting:
                return self._ident
