"""The search domains that a server gives to its clients: one per string of a TXT record.

They are the far end's choice, and stub resolvers append them to names (RFC 1535, resolv.conf(5)).
So only real domains are accepted: host names of at least two labels, as any mistyped name below a
top-level domain may belong to a stranger (RFC 1535 §1), and without a special use
(`dns.names.special_use`). At most six domains and 256 characters, as all stub resolvers accept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from dns.names import from_text, host_name, special_use

MAX_DOMAINS: Final = 6
MAX_CHARACTERS: Final = 256


def chosen(domains: Iterable[str]) -> tuple[str, ...]:
    """Return the acceptable ones of the domains, in their order and in lower case."""
    found: list[str] = []
    for domain in domains:
        try:
            labels = from_text(domain)
        except ValueError:
            continue
        text = host_name(labels)
        if text is None or len(labels) < 2 or special_use(labels) or text in found:
            continue
        if len(found) == MAX_DOMAINS or len(" ".join((*found, text))) > MAX_CHARACTERS:
            break
        found.append(text)
    return tuple(found)


def write(domains: Iterable[str]) -> bytes:
    """Return the data of a TXT record (RFC 1035 §3.3.14) with the domains."""
    return b"".join(bytes((len(one),)) + one.encode() for one in chosen(domains)) or b"\0"


def read(records: Iterable[bytes]) -> tuple[str, ...]:
    """Return the domains in the data of TXT records. Total on any octets."""
    return chosen(text for data in records for text in _strings(data))


def _strings(data: bytes) -> Iterator[str]:
    while data:
        yield data[1 : 1 + data[0]].decode("ascii", "replace")
        data = data[1 + data[0] :]
