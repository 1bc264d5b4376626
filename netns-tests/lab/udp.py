"""UDP peers: sockets for dialogues in the test itself, and an echo server for both families.

As a program, `udp.py ADDRESS...` answers every datagram with itself, on port 7 of each address.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.host import Host, Program

ECHO_PORT = 7
MAX_PAYLOAD = 65507
"""The largest that IPv4 carries (RFC 768, RFC 791)."""
IP_RECVERR, IPV6_RECVERR = (socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)
"""ip(7), ipv6(7); Python has no names for them."""


def open_socket(host: Host, address: str = "", *, family: int = 0, port: int = 0) -> socket.socket:
    """Return a socket of a host, bound if it has an address; of the family of an address."""
    of_address = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = host.call(socket.socket, family or of_address, socket.SOCK_DGRAM)
    if address:
        sock.bind((address, port))
    sock.settimeout(20)
    return sock


def connect(host: Host, address: str, port: int) -> socket.socket:
    """Return a socket of a host that is connected, and told of every ICMP error (udp(7)).

    Raises OSError.
    """
    is_v6 = ":" in address
    sock = open_socket(host, family=socket.AF_INET6 if is_v6 else socket.AF_INET)
    try:
        sock.setsockopt(*(IPV6_RECVERR if is_v6 else IP_RECVERR), 1)
        host.call(sock.connect, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def outcome(host: Host, address: str, port: int, timeout_s: float = 15.0) -> str:
    """Send a datagram and say what came of it: "answered", "silence" or the errno's name."""
    try:
        with connect(host, address, port) as sock:
            sock.settimeout(timeout_s)
            sock.send(b"there?")
            sock.recv(100)
    except TimeoutError:
        return "silence"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "answered"


def exchange(sock: socket.socket, payload: bytes) -> bytes:
    """Send to who answers with the same; send again what was lost. Raises TimeoutError."""
    sock.settimeout(3)
    for attempt in range(5):
        sock.send(payload)
        try:
            while (answer := sock.recv(1 << 16)) != payload:
                pass  # that of an earlier one
        except TimeoutError:
            if attempt == 4:
                raise
        else:
            return answer
    raise AssertionError


def echo(host: Host, *addresses: str) -> Program:
    """Start an echo server on addresses of a host; returns when it listens."""
    program = host.popen([sys.executable, __file__, *addresses])
    program.says("^ready$")
    return program


def main() -> None:
    """Serve until a signal ends the program."""
    sockets = []
    for address in sys.argv[1:]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sockets.append(socket.socket(family, socket.SOCK_DGRAM))
        sockets[-1].bind((address, ECHO_PORT))
    print("ready", flush=True)
    while True:
        for sock in select.select(sockets, [], [])[0]:
            data, peer = sock.recvfrom(1 << 16)
            print(peer[0], peer[1], len(data), flush=True)
            sock.sendto(data, peer)


if __name__ == "__main__":
    main()
