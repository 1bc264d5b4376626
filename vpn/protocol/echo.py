"""The messages of the echo service, between client and server. Pure.

They are a closed set of types, decoded strictly, each field bounded, and go in the stream of a
channel of their own (`vpn.protocol.message_channel`). Anything else ends the channel.

A *query* is one program's pinging of one destination, the query session of RFC 5508. The client
numbers it; the server gives it a ping socket (icmp(7)), whose identifier is the kernel's choice.
Sequence numbers and payloads are the application's own, end to end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec

from vpn.protocol import icmp
from vpn.protocol.failure import Failure
from vpn.protocol.fields import MAX_HOST, Host, Mtu, Octet, ServiceMessage

MAX_PAYLOAD: Final = 65527
"""65535 less the header, over IPv6 (RFC 8200 §3); 65507 over IPv4 (RFC 791)."""

NO_PORT: Final = 0
"""The port of a ping in rules and lookups, which have one for all that is asked for."""

MAX_MESSAGE: Final = MAX_PAYLOAD + 2 * MAX_HOST

_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Word = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Hops = Annotated[int, msgspec.Meta(ge=1, le=0xFF)]
_Payload = Annotated[bytes, msgspec.Meta(max_length=MAX_PAYLOAD)]


class Request(ServiceMessage, frozen=True, tag="request"):
    """Send an echo request to `host`, a name or an address, in a family, 4 or 6.

    Without `may_fragment` no router on the way may (RFC 791, DF); the server itself may.
    """

    query: _Number
    family: Literal[4, 6]
    host: Host
    hop_limit: _Hops
    may_fragment: bool
    sequence: _Word
    payload: _Payload


class Reply(ServiceMessage, frozen=True, tag="reply"):
    """An echo reply has come, with so much left of its hop limit.

    `source` is the `host` of the request, unless another address has answered.
    """

    query: _Number
    sequence: _Word
    hop_limit: Octet
    source: Host
    payload: _Payload


class Failed(ServiceMessage, frozen=True, tag="failed"):
    """A request did not arrive: an ICMP error of its family (RFC 792, RFC 4443).

    `mtu` is 0 if the error has none. `router` has sent it: empty for the server itself, the `host`
    of the request for the destination, else an address.
    """

    query: _Number
    sequence: _Word
    kind: Octet
    code: Octet
    mtu: Mtu
    router: Host


FromServer = Reply | Failed


def error_for(failure: Failure, family: int) -> tuple[int, int] | None:
    """Return the ICMP error for a request that was not sent; None for a timeout: silence.

    There are no ports: a destination that refuses is a host that is not there.
    """
    is_refused = failure is Failure.ECONNREFUSED
    return icmp.error_for(Failure.EHOSTUNREACH if is_refused else failure, family)


encode: Final[Callable[[Request | FromServer], bytes]] = msgspec.msgpack.Encoder().encode
"""Returns a message as it goes to the other end."""
decode_request: Final[Callable[[bytes], Request]] = msgspec.msgpack.Decoder(Request).decode
"""Returns what a client says. Raises ValueError."""
decode_answer: Final[Callable[[bytes], FromServer]] = msgspec.msgpack.Decoder(FromServer).decode
"""Returns what a server says. Raises ValueError."""
