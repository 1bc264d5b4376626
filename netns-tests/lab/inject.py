"""Packets as no kernel would send them: written to a device of a host, and read from it again."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from lab.host import Host

_ALL_PROTOCOLS: Final = 0x0003
_PROTOCOLS: Final = {4: 0x0800, 6: 0x86DD}


class Injector:
    """A device of a host without link layer (packet(7))."""

    def __init__(self, host: Host, device: str) -> None:
        self._device = device
        self._sock = host.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._sock.bind((device, _ALL_PROTOCOLS))

    def __enter__(self) -> Injector:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, packet: Packet | bytes) -> None:
        """Have the host send a packet, whatever it is."""
        raw = bytes(packet)
        protocol = _PROTOCOLS.get(raw[0] >> 4, _PROTOCOLS[4]) if raw else _PROTOCOLS[4]
        self._sock.sendto(raw, (self._device, protocol))

    def received(self, timeout_s: float = 0.0, *, outgoing: bool = False) -> list[Packet]:
        """Return what has come in, or gone out, since the last time; waits for the first one."""
        found: list[Packet] = []
        self._sock.settimeout(timeout_s)
        with suppress(TimeoutError, BlockingIOError):
            while True:
                raw, (_, _, kind, _, _) = self._sock.recvfrom(1 << 16)
                if (kind == socket.PACKET_OUTGOING) == outgoing and raw:
                    found.append(IP(raw) if raw[0] >> 4 == 4 else IPv6(raw))
                    self._sock.settimeout(0)
        return found
