"""Packet capture on an interface of a host, and the leak detector.

Whatever reaches the interface is read by a packet socket (packet(7)) that belongs to the host's
namespace and written to a pcap file. A capture that has lost packets refuses to be evidence.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
import warnings
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lab.host import Host

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
SNAP_BYTES = 256
BUFFER_BYTES = 64 << 20

_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
_PORT_UNREACHABLE = {"icmp": b"\x03\x03", "icmp6": b"\x01\x04"}  # type and code


class Packet(NamedTuple):
    """A captured frame, at most SNAP_BYTES of it. Outgoing is seen from the interface."""

    time_s: float
    is_outgoing: bool
    frame: bytes

    def __str__(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import scapy.layers.inet6  # noqa: F401 (teaches Ether the protocols)
            from scapy.layers.l2 import Ether
        way = "<" if self.is_outgoing else ">"
        return f"{self.time_s:.6f} {way} {Ether(self.frame).summary()}"


class Flow(NamedTuple):
    """Where a packet may go: "udp" or "tcp", an address and a port."""

    protocol: str
    address: str
    port: int


class Capture:
    """Captures from construction to close(). `path` is a pcap file anyone can read."""

    def __init__(self, host: Host, interface: str, path: Path) -> None:
        self.host, self.interface, self.path = host, interface, path
        self.lost = 0
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._socket = host.call(socket.socket, socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
        # Beyond net.core.rmem_max only with CAP_NET_ADMIN outside of user namespaces.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.bind((interface, ETH_P_ALL))
        self._mac: bytes = self._socket.getsockname()[4]
        self._file = path.open("wb")
        # libpcap savefile(5): microseconds, link type 1 is Ethernet.
        self._file.write(_FILE.pack(0xA1B2C3D4, 2, 4, 0, 0, SNAP_BYTES, 1))
        self._lock = threading.Lock()
        self._wake, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._work, name=f"capture-{interface}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._wake], [], [])
            if self._wake in ready:
                return
            with self._lock:
                self._drain()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while True:
                try:
                    frame = self._socket.recv(SNAP_BYTES)
                except OSError as error:
                    if error.errno == errno.ENETDOWN:  # said once, when the link is set down
                        continue
                    raise
                micros = time.time_ns() // 1000
                size = len(frame)
                self._file.write(_RECORD.pack(micros // 10**6, micros % 10**6, size, size) + frame)

    def packets(self) -> list[Packet]:
        """Return all packets up to now. Raises RuntimeError when the kernel lost some."""
        found = self.read()
        if self.lost:
            raise RuntimeError(f"the capture of {self.interface} has lost {self.lost} packets")
        return found

    def read(self) -> list[Packet]:
        """Return the packets up to now that were not lost."""
        with self._lock:
            if not self._file.closed:
                self._drain()
                self._file.flush()
                counts = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
                self.lost += struct.unpack("=II", counts)[1]
            data = self.path.read_bytes()
        at, found = _FILE.size, []
        while at < len(data):
            seconds, micros, size, _ = _RECORD.unpack_from(data, at)
            frame = data[at + _RECORD.size : at + _RECORD.size + size]
            found.append(Packet(seconds + micros / 1e6, frame[6:12] == self._mac, frame))
            at += _RECORD.size + size
        return found

    def close(self) -> None:
        """Stop and close the file; what came until now is in it."""
        if self._file.closed:
            return
        os.close(self._stop)
        self._thread.join()
        with self._lock:
            self._drain()
            self._file.close()
        self._socket.close()
        os.close(self._wake)


def leaks(packets: Iterable[Packet], allowed: Collection[Flow]) -> list[Packet]:
    """Return what came in, from the app on the router's side, and is none of the allowed flows.

    Allowed besides: ARP, neighbour discovery with the multicast listener reports it rests on
    (RFC 4861 section 7.2.1), DHCP, and the kernel's "port unreachable" to the far end of such a
    flow, which may send to a socket that has gone.
    """
    found = []
    for packet in packets:
        try:
            is_allowed = packet.is_outgoing or _is_allowed(packet.frame, allowed)
        except IndexError:  # too short for its own headers
            is_allowed = False
        if not is_allowed:
            found.append(packet)
    return found


def _is_allowed(frame: bytes, allowed: Collection[Flow]) -> bool:
    ether_type, network = frame[12:14], frame[14:]
    if ether_type == b"\x08\x06":
        return True
    if ether_type == b"\x08\x00":
        family, number, destination = socket.AF_INET, network[9], network[16:20]
        payload = network[4 * (network[0] & 15) :]
        # A later fragment has no ports: nothing that is allowed fragments (RFC 9000 section 14).
        if int.from_bytes(network[6:8], "big") & 0x1FFF:
            return False
    elif ether_type == b"\x86\xdd":
        family, number, destination = socket.AF_INET6, network[6], network[24:40]
        payload = network[40:]
        if number == 0:  # hop-by-hop options: listener reports carry a router alert (RFC 3810)
            number, payload = payload[0], payload[8 * (payload[1] + 1) :]
    else:
        return False
    protocol = _PROTOCOLS.get(number, "other")
    if payload[:2] == _PORT_UNREACHABLE.get(protocol):
        refused = _source(family, payload[8:])
        return refused in allowed and refused.address == socket.inet_ntop(family, destination)
    if protocol == "icmp6":
        return 130 <= payload[0] <= 137 or payload[0] == 143
    port = int.from_bytes(payload[2:4], "big")
    if protocol == "udp" and port == (67 if family == socket.AF_INET else 547):
        return True
    return Flow(protocol, socket.inet_ntop(family, destination), port) in allowed


def _source(family: int, packet: bytes) -> Flow:
    """Return where a packet came from, as an ICMP error quotes it (RFC 792, RFC 4443)."""
    if family == socket.AF_INET:
        number, address, payload = packet[9], packet[12:16], packet[4 * (packet[0] & 15) :]
    else:
        number, address, payload = packet[6], packet[8:24], packet[40:]
    port = int.from_bytes(payload[:2], "big")
    return Flow(_PROTOCOLS.get(number, "other"), socket.inet_ntop(family, address), port)
