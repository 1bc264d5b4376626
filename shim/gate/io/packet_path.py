"""The packet path between the two TUN devices: verbatim, but for what is left to the slow path.

Theory of operation
-------------------
A packet from the capture TUN that is TCP without SYN is passed on to the flow TUN as it is;
everything from the flow TUN is passed on to the capture TUN as it is. With offloads one read is up
to 64 KiB, and no byte of it is copied or summed here. All that is left, the first packet of a flow,
UDP, DNS, ICMP, takes the slow path, through `shim.gate.router`.

Limits: up to `BURST` packets per device and wake-up, so that one direction cannot starve the
other, and no further once they are small: then there is rarely another one, and asking costs as
much as being told. What a device does not take is dropped, as on any wire, and TCP sends it again.
So is a datagram, without a look at it, while the client reads none: a flood of them costs little,
and leaves room for others in the queue of the device.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from shim.gate.io.datagram_link import DatagramLink
from shim.gate.io.tap import Tap
from shim.gate.wire import tun
from shim.gate.wire.fast_path import is_datagram, is_segment_of_flow
from shim.protocol.gate import DropReason

BURST: Final = 64
LARGE_BYTES: Final = 16384

SYSCALLS: Final = frozenset({"readv", "write"})


@dataclass(slots=True)
class Forwarder:
    """Both devices, by descriptor. `on_slow` gets what is not forwarded here."""

    capture: int
    flow: int
    datagrams: DatagramLink
    tap: Tap
    dropped: Counter[DropReason]
    on_slow: Callable[[bytes], None]
    _buffer: bytearray = field(default_factory=lambda: bytearray(tun.READ_BYTES))

    def on_capture(self) -> None:
        """Forward what applications have sent."""
        capture, flow, buffer, tap = self.capture, self.flow, self._buffer, self.tap
        view = memoryview(buffer)
        for _ in range(BURST):
            try:
                size = os.readv(capture, (buffer,))
            except BlockingIOError:
                return
            if tap.is_on:
                tap.copy(view[:size], is_outgoing=True)
            if is_segment_of_flow(buffer, size):
                try:
                    os.write(flow, view[:size])
                except OSError:
                    self.dropped[DropReason.FLOW_DEVICE] += 1
            elif self.datagrams.is_full and is_datagram(buffer, size):
                # Read on: the device's queue holds packets of others, too.
                self.dropped[DropReason.DATAGRAM_LINK] += 1
                continue
            else:
                self.on_slow(bytes(view[:size]))
            if size < LARGE_BYTES:
                return

    def on_flow(self) -> None:
        """Forward what the kernel of the flow namespace has sent."""
        capture, flow, buffer, tap = self.capture, self.flow, self._buffer, self.tap
        view = memoryview(buffer)
        for _ in range(BURST):
            try:
                size = os.readv(flow, (buffer,))
            except BlockingIOError:
                return
            try:
                os.write(capture, view[:size])
            except OSError:
                self.dropped[DropReason.CAPTURE_DEVICE] += 1
            else:
                if tap.is_on:
                    tap.copy(view[:size], is_outgoing=False)
            if size < LARGE_BYTES:
                return
