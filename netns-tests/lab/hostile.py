"""A client that was taken over: it holds what a client holds, and is nobody but alice.

As a program, `hostile.py UID WHAT`:

    ask                 asks for sockets again and again, and says when the answer changes
    deaf                asks without ever reading an answer
    violate             breaks each rule of the links once, each time of a new instance
    all ADDRESS PORT    sends every message that is one, in every state, with extreme values, keeps
                        what it is given, and then tries to reach ADDRESS PORT of this machine
                        through the socket of a flow that somebody opens
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from lab.extremes import encodings, kinds
from shim.protocol import VERSION
from shim.protocol.common import Hello
from shim.protocol.gate import CLIENT_OF_GATE, GATE, Accepted, Configure, Open, Opened, ToGate
from shim.protocol.link import Message, Role
from shim.protocol.monitor import (
    CLIENT_OF_MONITOR,
    MAX_PREFIXES,
    MONITOR,
    Capture,
    OuterSocketWanted,
    Pause,
    Prefix,
)

TIMEOUT_S = 20.0
SPOOFED = ("203.0.113.77", 4444)
_AF_UNSPEC = bytes(16)
_IPV6_FREE = socket.AF_INET6
_libc = ctypes.CDLL(None, use_errno=True)
_encode = msgspec.msgpack.encode


class Client:
    """What a client starts with: a link to a monitor of its own. It becomes `uid` for good."""

    def __init__(self, uid: int) -> None:
        self.monitor, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-B", "-m", "shim.warden"],
            {"PATH": "/usr/sbin:/usr/bin"},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
        )
        theirs.close()
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)

    def welcome(self) -> None:
        """Introduce oneself, and get the link to the gate and the listener."""
        _, (gate, control) = self.ask(Hello(VERSION))
        self.gate, self.control = socket.socket(fileno=gate), socket.socket(fileno=control)

    def ask(self, message: Message) -> tuple[Message, list[int]]:
        """Send a message to the monitor and return the answer."""
        self.monitor.send(_encode(message))
        return hear(self.monitor, CLIENT_OF_MONITOR)


def hear(link: socket.socket, role: Role) -> tuple[Message, list[int]]:
    """Return the next message of a link."""
    link.settimeout(TIMEOUT_S)
    data, fds, _, _ = socket.recv_fds(link, 1 << 17, 8)
    message: Message = role.decoder.decode(data)
    return message, fds


def is_closed(link: socket.socket) -> bool:
    """Whether the other end closes the link; what it has said before is passed over."""
    link.settimeout(TIMEOUT_S)
    try:
        while True:
            data, fds, _, _ = socket.recv_fds(link, 1 << 17, 8)
            if fds:
                return False
            if not data:
                return True
            if CLIENT_OF_MONITOR.decoder.decode(data):
                return False
    except (ConnectionResetError, BrokenPipeError):
        return True
    except (msgspec.MsgspecError, ValueError):
        return False


def _violations() -> dict[str, Callable[[Client], socket.socket]]:
    """Return how each rule is broken; each returns the link that is to be closed."""

    def in_state(
        *before: Message, packet: bytes, fds: int = 0
    ) -> Callable[[Client], socket.socket]:
        def violate(client: Client) -> socket.socket:
            for message in before:
                if isinstance(message, Hello):
                    client.welcome()
                else:
                    client.ask(message)
            _send(client.monitor, packet, fds)
            _send(client.monitor, _encode(OuterSocketWanted(4, "udp")))
            return client.monitor

        return violate

    def of_gate(packet: bytes, fds: int = 0) -> Callable[[Client], socket.socket]:
        def violate(client: Client) -> socket.socket:
            client.welcome()
            hear(client.gate, CLIENT_OF_GATE)
            _send(client.gate, packet, fds)
            _send(client.gate, _encode(Configure(False, ())))
            return client.gate

        return violate

    hello, everything = Hello(VERSION), Capture(True, True, ())
    return {
        "nothing": in_state(hello, packet=_encode(OuterSocketWanted(6, "tcp"))),
        "empty": in_state(packet=b""),
        "too large": in_state(hello, packet=b"x" * (MONITOR.largest + 1)),
        "unknown": in_state(hello, packet=_encode(["exec", "id"])),
        "first of all": in_state(packet=_encode(everything)),
        "hello twice": in_state(hello, packet=_encode(hello)),
        "capture twice": in_state(hello, everything, packet=_encode(everything)),
        "no prefix": in_state(hello, packet=_encode(Capture(False, False, (Prefix(b"12345", 8),)))),
        "pause for ever": in_state(hello, everything, packet=_encode(Pause(2**62))),
        "253 descriptors": in_state(hello, packet=_encode(OuterSocketWanted(4, "udp")), fds=253),
        "gate: empty": of_gate(b""),
        "gate: too large": of_gate(b"x" * (GATE.largest + 1)),
        "gate: unknown": of_gate(_encode(["exec", "id"])),
        "gate: no name": of_gate(_encode(Configure(True, ("../etc",)))),
        "gate: 253 descriptors": of_gate(_encode(Configure(True, ())), fds=253),
    }


def _send(link: socket.socket, packet: bytes, fds: int = 0) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # closed already
        socket.send_fds(link, [packet], [2] * fds)


def _violate_each(uid: int) -> None:
    for name, violate in _violations().items():
        pid = os.fork()
        if pid == 0:
            client = Client(uid)
            was_closed = is_closed(violate(client))
            # Whatever else the client holds is of no use: the monitor ends, and all with it.
            if not was_closed:
                client.monitor.close()
            os.waitpid(client.pid, 0)
            print(name, "closed" if was_closed else "kept", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)


def _valid(receives: Any, role: Role) -> list[bytes]:
    def is_message(packet: bytes) -> bool:
        try:
            return len(packet) <= int(role.decoder.decode(packet).SIZE)
        except (msgspec.MsgspecError, ValueError):
            return False

    return [one for kind in kinds(receives) for one in encodings(kind) if is_message(one)]


def _do_all(uid: int, address: str, port: int) -> None:
    client = Client(uid)
    client.welcome()
    hear(client.gate, CLIENT_OF_GATE)
    sockets = [
        fds[0]
        for family, kind in itertools.product((4, 6), ("tcp", "udp"))
        for _ in range(50)
        for fds in [client.ask(OuterSocketWanted(family, kind))[1]]  # type: ignore[arg-type]
    ]
    print("sockets", len(sockets), flush=True)
    prefixes = [Prefix(bytes(4), 0), Prefix(bytes(16), 0), Prefix(b"\xff" * 4, 32)]
    prefixes += [Prefix(bytes([127, 0, 0, 0]), 8), Prefix(b"\xff" * 16, 128)]
    prefixes += [Prefix(bytes([10, n // 256, n % 256, 0]), 24) for n in range(MAX_PREFIXES - 5)]
    answer, _ = client.ask(Capture(True, True, tuple(prefixes), kill_switch=True, lan=False))
    print("captured", type(answer).__name__, flush=True)
    for seconds in (3600, 1, 0, 0, 3600, 0):
        client.ask(Pause(seconds))
    sent = 0
    for packet in _valid(ToGate, GATE):
        if b"configure" not in packet:
            client.gate.settimeout(TIMEOUT_S)
            client.gate.send(packet)
            sent += 1
            while select.select([client.gate], [], [], 0)[0]:
                hear(client.gate, CLIENT_OF_GATE)
    client.gate.send(_encode(Configure(False, ("a.example",))))
    hear(client.gate, CLIENT_OF_GATE)
    print("sent to the gate", sent, flush=True)
    print("holding", flush=True)
    flow = _take_flow(client)
    print("spoofed", _reach(flow, address, port), flush=True)
    select.select([], [], [])


def _take_flow(client: Client) -> int:
    """Open whatever is asked for until the socket of a flow comes."""
    while True:
        message, fds = hear(client.gate, CLIENT_OF_GATE)
        if isinstance(message, Open):
            client.gate.send(_encode(Opened(message.flow)))
        elif isinstance(message, Accepted):
            return fds[0]


def _reach(flow: int, address: str, port: int) -> str:
    """Make of the socket of a flow a new connection, from an address that is not ours."""
    if _libc.connect(flow, _AF_UNSPEC, len(_AF_UNSPEC)) != 0:
        return f"no disconnect: {os.strerror(ctypes.get_errno())}"
    with socket.socket(_IPV6_FREE, socket.SOCK_STREAM, 0, flow) as sock:
        sock.settimeout(3)
        try:
            sock.bind((f"::ffff:{SPOOFED[0]}", SPOOFED[1]))
            sock.connect((f"::ffff:{address}", port))
            return f"connected as {sock.getsockname()[0]}"
        except OSError as error:
            return f"not connected: {type(error).__name__}"


def _ask_always(uid: int) -> None:
    client = Client(uid)
    client.welcome()
    last = ""
    while True:
        answer, fds = client.ask(OuterSocketWanted(4, "udp"))
        for fd in fds:
            os.close(fd)
        if repr(answer) != last:
            last = repr(answer)
            print(last, flush=True)


def _be_deaf(uid: int) -> None:
    client = Client(uid)
    client.welcome()
    client.ask(Capture(False, False, ()))
    with suppress(BrokenPipeError, ConnectionResetError):
        while True:  # answers without descriptors: those on their way count for all labs together
            client.monitor.send(_encode(Pause(0)))
    os.waitpid(client.pid, 0)
    print("ended", flush=True)


if __name__ == "__main__":
    who, what, *where = sys.argv[1:]
    match what:
        case "ask":
            _ask_always(int(who))
        case "deaf":
            _be_deaf(int(who))
        case "violate":
            _violate_each(int(who))
        case _:
            _do_all(int(who), where[0], int(where[1]))
