"""The authorized keys of a server and their grants, in the meaning of sshd(8).

Theory of operation
-------------------
asyncssh's reader passes over options it does not know, so `restrict` restricts nothing there and
a misspelt `permitopne=` opens everything. This one refuses the line instead, as sshd does, and
the other lines still count. Options take effect in the order they are written: after `restrict`
a key forwards nothing until `port-forwarding` says so (`restrict,permitopen="h:1"` alone does
not forward). Of several lines with one key the first that holds now and here is taken.

`permitopen` compares what the client asks for, never what it resolves to; names without regard
to case, addresses by value. `from=` is compared with addresses only: there are no reverse
look-ups. Options about things this server never does (terminals, agents, commands) are read and
have no effect; `verify-required` cannot be checked here, so such a line is refused.

Pure: the text, the address and the time are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpn.ssh.login import address_patterns
from vpn.ssh.login.grant import EVERYTHING, Grant


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a key or, with `is_authority`, the authority of certificates."""

    key_data: bytes
    grant: Grant = EVERYTHING
    is_authority: bool = False
    sources: tuple[str, ...] = ()
    expires: float | None = None
    principals: tuple[str, ...] | None = None
    needs_touch: bool = True

    def holds(self, address: str, now: float) -> bool:
        """Return whether the line counts for a client at this address and time (Unix time)."""
        if self.expires is not None and now >= self.expires:
            return False
        return not self.sources or address_patterns.matches(self.sources, address)


@dataclass(frozen=True, slots=True)
class AuthorizedKeys:
    """All lines of one or several files; `refused` has the numbers and reasons of the others."""

    entries: tuple[Entry, ...] = ()
    refused: tuple[tuple[int, str], ...] = ()

    def find(self, key_data: bytes, address: str, now: float) -> Entry | None:
        """Return the line for a plain key, given as SSH public key blob."""
        for entry in self.entries:
            if entry.key_data == key_data and not entry.is_authority and entry.holds(address, now):
                return entry
        return None

    def find_authority(
        self, key_data: bytes, principals: Sequence[str], user: str, address: str, now: float
    ) -> Entry | None:
        """Return the line for the authority that signed a certificate for `principals`.

        The user name must be among them, or one of the `principals=` option must.
        """
        for entry in self.entries:
            if entry.key_data != key_data or not entry.is_authority:
                continue
            wanted = (user,) if entry.principals is None else entry.principals
            if entry.holds(address, now) and not set(wanted).isdisjoint(principals):
                return entry
        return None
