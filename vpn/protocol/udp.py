"""The messages of an association of UDP, between client and server. Pure.

An association is one local socket of an application, and one socket at the far end. It is opened
as a channel of its own to a reserved destination, which says its family. Each datagram, and each
ICMP error about one, is one message: a closed set of types, decoded strictly, each field bounded.
Nothing in a message depends on the one before, so that any of them may be lost: they may go in the
stream of the channel or in its datagrams (`vpn.protocol.message_channel`). Anything else
ends the channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from vpn.protocol.fields import MAX_HOST, Host, Mtu, Octet, ServiceMessage

MAX_PAYLOAD: Final = 65527
"""65535 less the header, over IPv6 (RFC 768, RFC 8200 §3); 65507 over IPv4 (RFC 791)."""

MAX_MESSAGE: Final = MAX_PAYLOAD + 2 * MAX_HOST + 64

_Port = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
_Payload = Annotated[bytes, msgspec.Meta(max_length=MAX_PAYLOAD)]


class Send(ServiceMessage, frozen=True, tag=0):
    """Send a datagram to `host`, a name or an address.

    Without `may_fragment` it is to arrive whole or not at all (RFC 791, DF).
    """

    host: Host
    port: _Port
    hop_limit: Annotated[int, msgspec.Meta(ge=1, le=0xFF)]
    may_fragment: bool
    payload: _Payload


class Deliver(ServiceMessage, frozen=True, tag=0):
    """A datagram has come. `host` is a name, if its sender was last sent to under that name."""

    host: Host
    port: _Port
    payload: _Payload


class Undeliverable(ServiceMessage, frozen=True, tag=1):
    """The last datagram to `host` and `port` did not arrive: an ICMP error of the family.

    `kind` and `code` are those of RFC 792 or RFC 4443, `mtu` is 0 if the error has none. `router`
    has sent it: empty for the server itself, `host` for the destination, else an address.
    """

    host: Host
    port: _Port
    kind: Octet
    code: Octet
    mtu: Mtu
    router: Host


FromServer = Deliver | Undeliverable

encode: Final[Callable[[Send | FromServer], bytes]] = msgspec.msgpack.Encoder().encode
"""Returns a message as it goes to the other end."""
decode_request: Final[Callable[[bytes], Send]] = msgspec.msgpack.Decoder(Send).decode
"""Returns what a client says. Raises ValueError."""
decode_answer: Final[Callable[[bytes], FromServer]] = msgspec.msgpack.Decoder(FromServer).decode
"""Returns what a server says. Raises ValueError."""
