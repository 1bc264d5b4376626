"""TCP peers: sockets for dialogues in the test itself, and programs for much data.

As a program, `tcp.py serve MODE ADDRESS PORT [N]` prints "ready" and serves any number of
connections; MODE is `echo`; `exchange` (send N bytes while receiving until EOF, both directions
hashed and reported as a line of JSON); or `reset` (read N bytes, then RST). `tcp.py exchange
ADDRESS PORT N` is the client of `exchange`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from lab.host import Host, Program

_BLOCK = random.Random(1).randbytes((1 << 20) - 3)
"""Its length divides nothing: a block that is lost, doubled or misplaced changes the hash."""


class Report(TypedDict):
    """What one end of an exchange has sent and received: byte counts and SHA-256."""

    sent: int
    sent_sha256: str
    received: int
    received_sha256: str


def outcome(host: Host, address: str, port: int, timeout_s: float = 15.0) -> str:
    """Connect and say how it ended: "connected", "timeout" or the errno's name.

    An ICMP error that comes back before connect(2) has let go of the socket, as it may on so
    short a way, only counts when the SYN is sent again after a second: give it that long.
    """
    try:
        connect(host, address, port, timeout_s).close()
    except TimeoutError as error:
        return "timeout" if error.errno is None else "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "connected"


def connect(host: Host, address: str, port: int, timeout_s: float = 30.0) -> socket.socket:
    """Return a socket of `host`, connected. Raises OSError."""
    return host.call(socket.create_connection, (address, port), timeout_s)


def listen(host: Host, address: str, port: int = 0) -> socket.socket:
    """Return a listening socket of `host`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = host.call(socket.create_server, (address, port), family=family)
    listener.settimeout(60)
    return listener


def pair(client: Host, server: Host, address: str) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection from `client` to an `address` of `server`."""
    with listen(server, address) as listener:
        near = connect(client, address, listener.getsockname()[1])
        far, _ = listener.accept()
    far.settimeout(30)
    return near, far


def reset(stream: socket.socket) -> None:
    """Close with RST instead of FIN (socket(7), SO_LINGER)."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def serve(host: Host, mode: str, address: str, port: int, count: int = 0) -> Program:
    """Start a server of a mode above in a host; returns when it listens."""
    program = host.popen([sys.executable, __file__, "serve", mode, address, str(port), str(count)])
    program.says("^ready$")
    return program


def exchange(
    host: Host, address: str, port: int, count: int, timeout_s: float = 60.0
) -> tuple[Report, float]:
    """Exchange with a server from `host`, sending `count` bytes; report and seconds."""
    argv = [sys.executable, __file__, "exchange", address, str(port), str(count)]
    report, duration_s = json.loads(host.run(argv, timeout=timeout_s).stdout)
    return report, duration_s


def run_exchange(stream: socket.socket, count: int) -> Report:
    """Send `count` bytes and FIN, meanwhile receive until FIN."""
    sent, received, got = hashlib.sha256(), hashlib.sha256(), 0

    def send() -> None:
        left = count
        while left:
            block = _BLOCK[:left]
            stream.sendall(block)
            sent.update(block)
            left -= len(block)
        stream.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    while data := stream.recv(1 << 18):
        received.update(data)
        got += len(data)
    sender.join()
    return Report(
        sent=count,
        sent_sha256=sent.hexdigest(),
        received=got,
        received_sha256=received.hexdigest(),
    )


def _handle(stream: socket.socket, mode: str, count: int) -> None:
    with stream:
        if mode == "echo":
            while data := stream.recv(1 << 16):
                stream.sendall(data)
        elif mode == "exchange":
            print(json.dumps(run_exchange(stream, count)), flush=True)
        elif mode == "reset":
            left = count
            while left and (data := stream.recv(left)):
                left -= len(data)
            reset(stream)


def main() -> None:
    """Run one of the modes."""
    if sys.argv[1] == "exchange":
        import time

        start_s = time.monotonic()
        with socket.create_connection((sys.argv[2], int(sys.argv[3])), 10) as stream:
            stream.settimeout(None)
            report = run_exchange(stream, int(sys.argv[4]))
        print(json.dumps([report, time.monotonic() - start_s]))
        return
    mode, address, port, count = sys.argv[2:]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, int(port)), family=family, backlog=1024) as listener:
        print("ready", flush=True)
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=_handle, args=(stream, mode, int(count)), daemon=True).start()


if __name__ == "__main__":
    main()
