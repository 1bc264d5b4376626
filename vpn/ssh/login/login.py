"""A login of a client at the server: what it was granted, and what the services hold for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vpn.protocol.services import ECHO, UDP, UDP_IN_DATAGRAMS
from vpn.ssh.login.grant import Grant, comparable

_JUDGES = frozenset({ECHO, *UDP.values(), *UDP_IN_DATAGRAMS.values()})
"""Those that compare each destination they are asked for with the grant of the login."""


@dataclass(eq=False, slots=True)
class Login:
    """A login, to the services that it asks for.

    `held` counts what each of them keeps for it, by the service's name: all channels share a limit.
    """

    grant: Grant
    held: Counter[str] = field(default_factory=Counter)

    def refusal(self, host: str, port: int) -> str | None:
        """Return the rule that forbids a channel to a destination or service, or None."""
        rule = self.grant.refusal(host, port)
        if rule is not None and self.grant.may_forward and (comparable(host), port) in _JUDGES:
            return None
        return rule
