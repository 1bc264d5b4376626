"""What `flows` shows of a flow, and how a list of any length goes through small packets. Pure.

A packet has at most `PER_PACKET` flows; `END` comes last, so that a list which breaks off is told
from one that is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from vpn.control.messages import FlowStatus

PER_PACKET: Final = 16
END: Final = b"end"


def packets(flows: Sequence[FlowStatus]) -> Iterator[bytes]:
    """Return the packets of a list."""
    for start in range(0, len(flows), PER_PACKET):
        yield msgspec.json.encode(flows[start : start + PER_PACKET])
    yield END


def unpack(packet: bytes) -> tuple[FlowStatus, ...]:
    """Return the flows of a packet that is not the last. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(packet, type=tuple[FlowStatus, ...])
