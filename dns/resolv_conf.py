"""The parser of `/etc/resolv.conf`: servers, search domains, timeout and attempts.

By resolv.conf(5) the last `domain` or `search` line counts, and numbers have upper limits. Lines
that cannot be read are skipped. Options that only concern the C library's resolver are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

MAX_SERVERS: Final = 3
"""MAXNS of <resolv.h>."""
_MAX_TIMEOUT_S: Final = 30
_MAX_ATTEMPTS: Final = 5
_LOOPBACK: Final = "127.0.0.1"
"""The server if the file names none."""


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """The settings. `servers` are addresses, perhaps with a zone (`fe80::1%eth0`)."""

    servers: tuple[str, ...]
    search: tuple[str, ...]
    timeout_s: int
    attempts: int


def parse(text: str) -> ResolvConf:
    """Return the settings in the text of the file. Total."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    numbers = {"timeout": 5, "attempts": 2}
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values and _is_address(values[0]):
            servers.append(values[0])
        elif keyword == "domain" and values:
            search = (values[0],)
        elif keyword == "search":
            search = tuple(values)
        elif keyword == "options":
            for value in values:
                name, _, number = value.partition(":")
                if name in numbers and number.isdecimal() and number.isascii():
                    numbers[name] = int(number[:4])
    return ResolvConf(
        tuple(servers[:MAX_SERVERS]) or (_LOOPBACK,),
        search,
        min(max(numbers["timeout"], 1), _MAX_TIMEOUT_S),
        min(max(numbers["attempts"], 1), _MAX_ATTEMPTS),
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
