"""The answers to the gate's lookups: of names that the rules allow, static ones first.

Any other name is asked of the far end, where there is a resolver to ask. Each lookup is written
into the report of the run, if there is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from dns.disposition import ADDRESSES, Path
from dns.static import StaticNames
from dns.upstream import FAILED, Answer, write_answer
from dns.upstream import Outcome as FarOutcome
from shim.protocol.gate import LookedUp, Lookup, Outcome
from vpn.client.flows.admission import Limits, admit_name
from vpn.client.names.far_resolver import FarResolver
from vpn.policy.report import Report
from vpn.policy.rules import Decision

_WITH_RECORDS: Final = (FarOutcome.FOUND, FarOutcome.NO_DATA, FarOutcome.NX_DOMAIN)


class Lookups:
    """Answers lookups. Without a `resolver` every name that the rules allow exists."""

    def __init__(
        self,
        resolver: FarResolver | None,
        limits: Limits,
        report: Report | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives the time of what is reported, in seconds since the epoch."""
        self.resolver = resolver
        self._limits = limits
        self._static = StaticNames({name: host for name, (host, _) in limits.hosts.items()})
        self._report = report
        self._clock = clock

    async def answer(self, question: Lookup) -> LookedUp:
        """Return the answer to a lookup. Addresses are the gate's to give: it has no records."""
        message = b""
        try:
            answer = await self._answer(question.name, question.rtype)
            if answer.outcome in _WITH_RECORDS and question.rtype not in ADDRESSES:
                message = write_answer(answer, question.name, question.rtype)
        except ValueError:  # no name, or more than a message holds
            answer = FAILED
        return LookedUp(question.query, Outcome[answer.outcome.name], message)

    def judge(self, name: str, rtype: int) -> Decision:
        """Return whether a name may be looked up. Raises ValueError if it is none."""
        return admit_name(self._limits, name, rtype)

    def path_of(self, name: str, rtype: int) -> Path:
        """Return where the answer to a lookup comes from."""
        if self._static.answer(name, rtype) is not None:
            return Path.STATIC
        if self.resolver is None:
            return Path.VIRTUAL
        return Path.FAR if self.resolver.cached_for(name, rtype) is None else Path.CACHED

    async def known(self, name: str, rtype: int) -> Answer:
        """Return what is known of a name, allowed or not, without a report of it.

        Raises ValueError if it is none.
        """
        static = self._static.answer(name, rtype)
        if static is not None:
            return static
        if self.resolver is None:
            return Answer(FarOutcome.FOUND if rtype in ADDRESSES else FarOutcome.UNSUPPORTED)
        return await self.resolver.ask(name, rtype)

    def close(self) -> None:
        """Close the channel to the resolver; what waits has failed."""
        if self.resolver is not None:
            self.resolver.close()

    async def _answer(self, name: str, rtype: int) -> Answer:
        decision = self.judge(name, rtype)
        if self._report is not None:
            self._report.on_lookup(name, decision, self._clock())
        if not decision.allowed:
            return Answer(FarOutcome.REFUSED)
        return await self.known(name, rtype)
