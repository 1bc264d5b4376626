"""The report of a run (`--report`): the hosts it contacted or was denied, as JSON. Pure.

Theory of operation
-------------------
Events are counted as they happen: a name is looked up, a flow is wanted, has an outcome, moves
bytes. A contact is a host together with a decision about it, so a host of which one port is
allowed and another denied is two contacts. Hosts are in the form of `vpn.policy.rules.canonical`:
all spellings of an address are one contact.

Memory is bounded, whatever the command does: `MAX_ENDPOINTS` pairs of host and port, a looked-up
name being one with no port. What comes after is counted together, without its hosts, and the
document has an `overflow`. A document without one is complete.

All times are seconds since the epoch (time(2)). The order of contacts depends on nothing but
their content.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Final, Literal

import msgspec

from vpn.policy.rules import Decision, canonical

MAX_ENDPOINTS: Final = 10_000
"""Some 10 MB if every name is as long as names can be."""


class Outcome(StrEnum):
    """The result of a flow."""

    OPENED = "opened"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    DENIED = "denied"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of lookups, flows and bytes.

    `flows` that have no outcome were given up by the application or not answered before the end.
    `bytes_up` went to the far end. `first` and `last` are the times of the first and last event.
    """

    lookups: int
    flows: int
    outcomes: dict[Outcome, int]
    bytes_up: int
    bytes_down: int
    first: float
    last: float


class Contact(Counts, frozen=True):
    """A host and what was decided about it.

    `rule` is the text of the rule, or `default`. `allowed` is about the rules of this run: an
    allowed flow that the server's rules denied counts in `outcomes`.
    """

    host: str
    allowed: bool
    rule: str
    met: tuple[Literal["dns", "connect"], ...]
    ports: tuple[int, ...]


class Document(msgspec.Struct, frozen=True):
    """The report of one run. `overflow` counts what has no contact; None if there is nothing."""

    schema: Literal[1]
    start: float
    end: float
    target: str
    command: tuple[str, ...]
    exit_status: int
    contacts: tuple[Contact, ...]
    overflow: Counts | None


@dataclass(slots=True)
class _Tally:
    """`Counts` while they grow."""

    first: float
    last: float
    lookups: int = 0
    flows: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    bytes_up: int = 0
    bytes_down: int = 0

    def touch(self, now: float) -> None:
        # The clock may be set back.
        self.first = min(self.first, now)
        self.last = max(self.last, now)


class Report:
    """Counts the events of a run.

    The decision about a host and port is taken from its first event: a run has one policy.
    """

    def __init__(self) -> None:
        self._endpoints: dict[tuple[str, int | None], Decision] = {}
        self._contacts: dict[tuple[str, Decision], _Tally] = {}
        self._overflow: _Tally | None = None
        self._has_denied = False

    @property
    def has_denied(self) -> bool:
        """Whether any lookup or flow was denied, by our rules or the server's."""
        return self._has_denied

    def on_lookup(self, name: str, decision: Decision, now: float) -> None:
        """The command has asked DNS for a name; a denied one was refused."""
        self._has_denied |= not decision.allowed
        self._tally(name, None, decision, now).lookups += 1

    def on_open(self, host: str, port: int, decision: Decision, now: float) -> None:
        """The command wants a flow; a denied one has its outcome with that.

        Port 0 is for what has no port.
        """
        tally = self._tally(host, port, decision, now)
        tally.flows += 1
        if not decision.allowed:
            self._count(tally, Outcome.DENIED)

    def on_result(self, host: str, port: int, outcome: Outcome, now: float) -> None:
        """An allowed flow has its outcome. Raises LookupError if it was never wanted."""
        self._count(self._known(host, port, now), outcome)

    def on_bytes(self, host: str, port: int, up: int, down: int, now: float) -> None:
        """A flow has moved so many more bytes. Raises LookupError if it was never wanted."""
        tally = self._known(host, port, now)
        tally.bytes_up += up
        tally.bytes_down += down

    def document(
        self, *, start: float, end: float, target: str, command: Iterable[str], exit_status: int
    ) -> Document:
        """Return what has been counted, with the circumstances of the run."""
        ports = defaultdict(list)
        for (host, port), decision in self._endpoints.items():
            if port:
                ports[host, decision].append(port)
        contacts = [
            _contact(host, decision, tally, sorted(ports[host, decision]))
            for (host, decision), tally in self._contacts.items()
        ]
        return Document(
            schema=1,
            start=start,
            end=end,
            target=_encodable(target),
            command=tuple(map(_encodable, command)),
            exit_status=exit_status,
            contacts=tuple(sorted(contacts, key=lambda c: (c.host, c.allowed, c.rule))),
            overflow=Counts(**asdict(self._overflow)) if self._overflow else None,
        )

    def _tally(self, host: str, port: int | None, decision: Decision, now: float) -> _Tally:
        host = canonical(host)
        known = self._endpoints.get((host, port))
        if known is None:
            if len(self._endpoints) >= MAX_ENDPOINTS:
                return self._overflowing(now)
            known = self._endpoints[host, port] = decision
        tally = self._contacts.setdefault((host, known), _Tally(now, now))
        tally.touch(now)
        return tally

    def _known(self, host: str, port: int, now: float) -> _Tally:
        host = canonical(host)
        decision = self._endpoints.get((host, port))
        if decision is not None:
            tally = self._contacts[host, decision]
        elif self._overflow is not None:
            tally = self._overflow
        else:
            raise LookupError(f"no flow to {host} port {port} was reported")
        tally.touch(now)
        return tally

    def _overflowing(self, now: float) -> _Tally:
        if self._overflow is None:
            self._overflow = _Tally(now, now)
        self._overflow.touch(now)
        return self._overflow

    def _count(self, tally: _Tally, outcome: Outcome) -> None:
        self._has_denied |= outcome is Outcome.DENIED
        tally.outcomes[outcome] += 1


def encode(document: Document) -> bytes:
    """Return the document as indented JSON (RFC 8259) in UTF-8, with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _contact(host: str, decision: Decision, tally: _Tally, ports: list[int]) -> Contact:
    met: list[Literal["dns", "connect"]] = []
    if tally.lookups:
        met.append("dns")
    if tally.flows:
        met.append("connect")
    return Contact(
        host, decision.allowed, decision.rule_text, tuple(met), tuple(ports), **asdict(tally)
    )


def _encodable(text: str) -> str:
    """Return `text` with what is no Unicode (PEP 383: arguments of any bytes) escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
