"""The messages between client and gate that may be lost: UDP and ICMP echo.

Theory of operation
-------------------
A second link, next to that of `shim.protocol.gate`, carries UDP and ICMP echo, which a network may
lose, so that a flood of it never keeps an `Open` waiting. The client makes the
pair, sends one end with `Configure`, and makes a new one for each gate. Until then, and whenever
the link is full, datagrams are dropped and counted, as on a wire; none is queued.
A message that breaks a rule ends the link, and with it everything, as on the other one.

UDP: an association is a local socket (an address and a port). The gate gives it a number, which is
unique over all gates (`first_number`), and each `Send` carries everything: a client that does not
know the number begins the association then. The gate decides how long it lives, and sends
`Forget`. One that the client has dropped by itself begins anew with the next `Send`.

ICMP echo: a query is one program pinging one host. Its number is of the same kind; the gate decides
how long it lives, and each `Ping` carries everything. No message says that an answer is missing.

A host is a name, if the application used the virtual address of one, else an address as text.
Answers of a host that was asked for by name come under that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from shim.protocol.gate import MAX_NAME
from shim.protocol.link import Link, Message, role

MAX_ASSOCIATIONS: Final = 2048
MAX_PAYLOAD: Final = 65527
"""The largest UDP payload: 65535 less the header, over IPv6; 65507 over IPv4 (RFC 768)."""

Host = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Uint8 = Annotated[int, msgspec.Meta(ge=0, le=255)]
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Payload = Annotated[bytes, msgspec.Meta(max_length=MAX_PAYLOAD)]


class _WithPayload(Message, frozen=True):
    SIZE: ClassVar[int] = 64 + MAX_NAME + MAX_PAYLOAD


class _WithNames(Message, frozen=True):
    SIZE: ClassVar[int] = 64 + 2 * MAX_NAME


# gate → client


class Send(_WithPayload, frozen=True, tag="send"):
    """An application has sent a datagram. `hop_limit` is what is left of it behind the gate.

    `family` is 4 or 6. Without `may_fragment` it is to arrive whole or not at all (RFC 791, DF).
    """

    association: int
    family: Literal[4, 6]
    host: Host
    port: Port
    hop_limit: Annotated[int, msgspec.Meta(ge=1, le=255)]
    may_fragment: bool
    payload: Payload


class Forget(Message, frozen=True, tag="forget"):
    """The association has ended."""

    association: int


class Ping(_WithPayload, frozen=True, tag="ping"):
    """An application has sent an echo request. `hop_limit` is what is left of it behind the gate.

    `family` is 4 or 6. Without `may_fragment` no router on the way may (RFC 791, DF).
    """

    query: int
    family: Literal[4, 6]
    host: Host
    hop_limit: Annotated[int, msgspec.Meta(ge=1, le=255)]
    may_fragment: bool
    sequence: Uint16
    payload: Payload


# client → gate


class Deliver(_WithPayload, frozen=True, tag="deliver"):
    """A datagram has come for an association from `host`, solicited or not."""

    association: int
    host: Host
    port: Port
    payload: Payload


class Undeliverable(_WithNames, frozen=True, tag="undeliverable"):
    """The last datagram to `host` and `port` did not arrive: an ICMP error of its family.

    `kind` and `code` are as in RFC 792 or RFC 4443, for destination unreachable, packet too big
    and time exceeded; `mtu` is 0 if the error has none. `router` sent it: empty for the gate
    itself, `host` for the destination, else an address.
    """

    association: int
    host: Host
    port: Port
    kind: Uint8
    code: Uint8
    mtu: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
    router: Host


class Pong(_WithPayload, frozen=True, tag="pong"):
    """An echo reply has come, with `hop_limit` left; from `source`, the host or another address."""

    query: int
    sequence: Uint16
    hop_limit: Uint8
    source: Host
    payload: Payload


class Unanswered(_WithNames, frozen=True, tag="unanswered"):
    """An echo request did not arrive: an ICMP error of its family; fields as in `Undeliverable`."""

    query: int
    sequence: Uint16
    kind: Uint8
    code: Uint8
    mtu: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
    router: Host


FromGate = Send | Forget | Ping
ToGate = Deliver | Undeliverable | Pong | Unanswered

GATE: Final = role(ToGate)
CLIENT_OF_GATE: Final = role(FromGate)


def burst(link: Link, most: int) -> Iterator[Message]:
    """Yield messages that are there, at most so many. Raises as `Link.receive`.

    No message of this link carries a descriptor.
    """
    for _ in range(most):
        received = link.receive()
        if received is None:
            return
        yield received[0]
