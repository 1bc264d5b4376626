"""Search domains, as a server tells them to its clients: one per string of a TXT record.

They come from the far end, whose word they are: a stub resolver appends them to names (RFC 1535,
resolv.conf(5)). So only real domains are taken: host names of at least two labels, since below a
top-level domain every name that somebody mistypes is somebody else's (RFC 1535 §1), and none that
means something else (`dns.names.special_use`). No more than the six domains and 256 characters
that all stub resolvers take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from dns.names import from_text, host_name, special_use

MAX_DOMAINS: Final = 6
MAX_CHARACTERS: Final = 256


def chosen(domains: Iterable[str]) -> tuple[str, ...]:
    """Return those of the domains that may be searched, in their order and in lower case."""
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
    """Return the data of a TXT record (RFC 1035 §3.3.14) that lists the domains."""
    return b"".join(bytes((len(one),)) + one.encode() for one in chosen(domains)) or b"\0"


def read(records: Iterable[bytes]) -> tuple[str, ...]:
    """Return the domains that the data of TXT records lists. Total on any octets."""
    return chosen(text for data in records for text in _strings(data))


def _strings(data: bytes) -> Iterator[str]:
    while data:
        yield data[1 : 1 + data[0]].decode("ascii", "replace")
        data = data[1 + data[0] :]
