"""The grant of a login: the destinations that authorized_keys lets it open. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

ANY_HOST = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """The rights of a login. `permit_open` None means any destination; a port None, any port."""

    may_forward: bool = True
    permit_open: frozenset[tuple[str, int | None]] | None = None

    def refusal(self, host: str, port: int) -> str | None:
        """Return the rule that forbids a destination, or None."""
        if not self.may_forward:
            return "port-forwarding"
        if self.permit_open is None:
            return None
        wanted = comparable(host)
        for allowed_host, allowed_port in self.permit_open:
            if allowed_host in (ANY_HOST, wanted) and allowed_port in (None, port):
                return None
        return "permitopen"


EVERYTHING = Grant()


def comparable(host: str) -> str:
    """Return a host in the one form in which hosts are compared."""
    try:
        return str(ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")
