"""A client that has logged in at the server: its grant, and the resources it holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vpn.protocol.services import ECHO, UDP, UDP_IN_DATAGRAMS
from vpn.ssh.login.grant import Grant, comparable

_JUDGES = frozenset({ECHO, *UDP.values(), *UDP_IN_DATAGRAMS.values()})
"""The services that compare each destination with the grant of the login themselves."""


@dataclass(eq=False, slots=True)
class Login:
    """A login. `held` counts what each service holds for it, by the name of the service.

    So all channels of a login share one limit.
    """

    grant: Grant
    held: Counter[str] = field(default_factory=Counter)

    def refusal(self, host: str, port: int) -> str | None:
        """Return the rule that forbids a channel to a destination or service, or None."""
        rule = self.grant.refusal(host, port)
        if rule is not None and self.grant.may_forward and (comparable(host), port) in _JUDGES:
            return None
        return rule
