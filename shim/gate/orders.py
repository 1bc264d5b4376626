"""The orders by which the deciders of the gate say what is to be done. Pure.

Flows, associations, echo and the resolver decide; none of them has a descriptor. What they return
is carried out by `shim.gate.io.executor`, and by nothing else. Segments of an established flow need
no order: they are forwarded verbatim (`shim.gate.io.packet_path`).
"""

from __future__ import annotations

from dataclasses import dataclass

from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol.datagrams import Forget, Ping, Send
from shim.protocol.gate import (
    Cancel,
    DropReason,
    Forward,
    Lookup,
    Open,
    PoolState,
)


@dataclass(frozen=True, slots=True)
class _Write:
    """Write a packet, behind its virtio header, to a TUN device."""

    framed: bytes


class WriteCapture(_Write):
    """Write to the capture TUN: an application gets the packet."""

    __slots__ = ()


class WriteFlow(_Write):
    """Write to the flow TUN, where the kernel ends flows."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class SendClient:
    """Send a message to the client. If it does not read, `Router.on_unsent` is told."""

    message: Open | Lookup | Forward | PoolState


@dataclass(frozen=True, slots=True)
class Notify:
    """Send a message to the client, now or when it reads again: it must not be lost."""

    message: Cancel | Forget


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send a message over the link for datagrams; it is dropped and counted while that is full."""

    message: Send | Ping


@dataclass(frozen=True, slots=True)
class ResetSocket:
    """End an accepted connection, by its descriptor, with a RST."""

    connection: int


@dataclass(frozen=True, slots=True)
class PassSocket:
    """Pass an accepted connection, by its descriptor, to the client as that of a flow."""

    connection: int
    flow: int


@dataclass(frozen=True, slots=True)
class ReplyStream:
    """Send a DNS message on a connection to the resolver (RFC 7766), if it is still there."""

    stream: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """Count a packet, or `packets` of them, as dropped."""

    reason: DropReason
    packets: int = 1


Order = (
    WriteCapture
    | WriteFlow
    | SendClient
    | Notify
    | SendDatagram
    | PassSocket
    | ResetSocket
    | ReplyStream
    | Drop
)


def answer(raw: bytes) -> WriteCapture:
    """Return the order to write a whole packet, with no checksum left to the kernel."""
    return WriteCapture(NO_OFFLOAD + raw)
