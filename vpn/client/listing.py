"""What `flows` shows of a flow, and how a list of any length goes through small packets. Pure.

A packet has at most `PER_PACKET` flows; `END` comes last, so that a list which breaks off is told
from one that is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final, Literal

import msgspec

PER_PACKET: Final = 16
END: Final = b"end"

State = Literal["opening", "open", "half-closed-local", "half-closed-remote", "closing"]
"""As in RFC 9113 §5.1: which side has ended its data, seen from the application."""

Exit = Literal["server", "loopback"]


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One flow. Sizes are bytes, times whole seconds.

    `destination` is the name that the application has connected to, an address if there is none.
    `exit` is where it leaves: at the server, or at the loopback device of this machine.
    """

    id: str
    protocol: Literal["tcp", "udp"]
    source: str
    source_port: int
    destination: str
    destination_port: int
    state: State
    bytes_up: int
    bytes_down: int
    age_s: int
    idle_s: int
    exit: Exit


class FlowList(msgspec.Struct, frozen=True):
    """What `overlay-vpn flows --json` prints."""

    schema: int
    flows: tuple[FlowStatus, ...]


def packets(flows: Sequence[FlowStatus]) -> Iterator[bytes]:
    """Return the packets of a list."""
    for start in range(0, len(flows), PER_PACKET):
        yield msgspec.json.encode(flows[start : start + PER_PACKET])
    yield END


def unpack(packet: bytes) -> tuple[FlowStatus, ...]:
    """Return the flows of a packet that is not the last. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(packet, type=tuple[FlowStatus, ...])


def source_of(key: bytes) -> tuple[str, int]:
    """Return the source address and port that a key says; ("", 0) if it is none.

    A key is source and destination address and port in network order (`shim.protocol.gate`).
    """
    if len(key) not in (12, 36):
        return "", 0
    return str(ip_address(key[: (len(key) - 4) // 2])), int.from_bytes(key[-4:-2])
