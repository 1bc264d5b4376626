"""The fields that the messages of more than one service share. Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

MAX_HOST: Final = 253

Mtu = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
"""Of a link, in octets (RFC 1191, RFC 4443 §3.2); 0 where an error has none."""
Octet = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
Host = Annotated[str, msgspec.Meta(max_length=MAX_HOST, pattern=r"^[!-~]*\Z")]
"""A name or an address: printable ASCII without spaces, as `dns.names.to_text` writes names."""


class ServiceMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A message of the closed set of a service: msgpack, an array of its tag and its fields."""
