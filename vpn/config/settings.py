"""The settings of one session: what the user asked for, whichever verb it was. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from vpn.config.forwards import Publication
from vpn.config.routes import Routes
from vpn.config.target import Target
from vpn.policy.rules import Policy

EMBEDDED: Final = "embedded"
"""What is shown in place of a target where the server is part of this process."""

DnsMode = Literal["", "virtual", "remote"]
"""Answer every name at once, or ask the far end first; empty for `remote` where it can be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """The settings of `up` or `run`; each verb leaves the defaults of what only the other has."""

    target: Target | None = None
    """The server, with the user to log in as; None for the embedded one."""
    identities: tuple[Path, ...] = ()
    """Private keys to log in with, and no others; none for the agent's and the usual files."""
    host_key: str | None = None
    """The only host key to accept (`SHA256:…`)."""
    accept_new: bool = False
    """Whether the key of an unknown server is accepted and added to known_hosts."""

    dns: DnsMode = ""
    dns_server: str | None = None
    """The address of a resolver that the far end can reach."""
    datagrams: bool | None = None
    """Whether UDP is carried in datagrams; see `vpn.transport.base.Dialing`."""

    hosts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Names with an address and port at the far end; port 0 is the same port."""
    policy: Policy = field(default_factory=lambda: Policy(()))
    host_loopback: bool = False
    """Whether the loopback of this machine can be reached at 198.18.0.1."""

    routes: Routes = field(default_factory=lambda: Routes(True, (), ()))
    kill_switch: bool = False
    """Whether the machine stays cut off when the tunnel has gone, until `down` or `recover`."""
    lan: bool = True
    """Whether the local network can be reached while the kill switch holds."""

    publications: tuple[Publication, ...] = ()
    report: Path | None = None
    """The file for what was contacted and denied."""

    @property
    def address_text(self) -> str:
        """The server as host:port."""
        return EMBEDDED if self.target is None else str(self.target.address)

    @property
    def server_text(self) -> str:
        """The session for people: user, server and transport."""
        if self.target is None:
            return EMBEDDED
        return f"{self.target.user}@{self.target.address} ({self.target.transport})"

    @property
    def captured_names(self) -> tuple[str, ...] | None:
        """Suffixes of the names that are resolved through the tunnel, as `Routes.names`."""
        return self.routes.names(self.hosts)
