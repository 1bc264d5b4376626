"""A client that was taken over: it holds what a client holds, and is nobody but alice.

As a program, `hostile.py UID WHAT`:

    ask                 has a socket marked again and again, and says when the answer changes
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from lab.extremes import encodings, kinds
from shim.protocol import VERSION
from shim.protocol import datagrams as datagram
from shim.protocol.common import Hello
from shim.protocol.gate import (
    CLIENT_OF_GATE,
    GATE,
    Accepted,
    Configure,
    Copy,
    Dropped,
    Open,
    Opened,
    ToGate,
)
from shim.protocol.link import Message, Role
from shim.protocol.monitor import (
    CLIENT_OF_MONITOR,
    MAX_PREFIXES,
    MONITOR,
    Capture,
    Mark,
    Marked,
    Pause,
    Prefix,
)

TIMEOUT_S = 20.0
SPOOFED = ("203.0.113.77", 4444)
_AF_UNSPEC = bytes(16)
_IPV6_FREE = socket.AF_INET6
_MPTCP = 262
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_encode = msgspec.msgpack.encode


class Client:
    """What a client starts with: a link to a monitor of its own. It becomes `uid` for good."""

    def __init__(self, uid: int) -> None:
        self.monitor, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-B", "-m", "shim.launcher"],
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

    def ask(self, message: Message, *fds: int) -> tuple[Message, list[int]]:
        """Send a message to the monitor and return the answer."""
        socket.send_fds(self.monitor, [_encode(message)], fds)
        return hear(self.monitor, CLIENT_OF_MONITOR)


def configure(link: socket.socket, settings: Configure) -> socket.socket:
    """Configure a gate, and return our end of the link for datagrams."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, suppress(BrokenPipeError, ConnectionResetError):  # closed already
        socket.send_fds(link, [_encode(settings)], [theirs.fileno()])
    return ours


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
            if not _is_dropped(data) and CLIENT_OF_MONITOR.decoder.decode(data):
                return False
    except (ConnectionResetError, BrokenPipeError):
        return True
    except (msgspec.MsgspecError, ValueError):
        return False


def _is_dropped(data: bytes) -> bool:
    """Whether a gate tells of dropped packets, which it does at any time."""
    with suppress(msgspec.MsgspecError, ValueError):
        return isinstance(CLIENT_OF_GATE.decoder.decode(data), Dropped)
    return False


def _violations() -> dict[str, Callable[[Client], socket.socket]]:
    """Return how each rule is broken; each returns the link that is to be closed."""

    def in_state(
        *before: Message, packet: bytes, fds: Sequence[int] = ()
    ) -> Callable[[Client], socket.socket]:
        def violate(client: Client) -> socket.socket:
            for message in before:
                if isinstance(message, Hello):
                    client.welcome()
                else:
                    client.ask(message)
            _send(client.monitor, packet, fds)
            _send(client.monitor, _encode(Mark()), [udp])
            return client.monitor

        return violate

    def marking(*fds: int) -> Callable[[Client], socket.socket]:
        return in_state(hello, packet=_encode(Mark()), fds=fds)

    def of_gate(packet: bytes, fds: Sequence[int] = ()) -> Callable[[Client], socket.socket]:
        def violate(client: Client) -> socket.socket:
            client.welcome()
            hear(client.gate, CLIENT_OF_GATE)
            _send(client.gate, packet, fds)
            _send(client.gate, _encode(Configure(False, ())))
            return client.gate

        return violate

    def no_name(client: Client) -> socket.socket:
        client.welcome()
        hear(client.gate, CLIENT_OF_GATE)
        configure(client.gate, Configure(True, ("../etc",)))
        return client.gate

    def of_datagrams(packet: bytes) -> Callable[[Client], socket.socket]:
        def violate(client: Client) -> socket.socket:
            client.welcome()
            hear(client.gate, CLIENT_OF_GATE)
            datagrams = configure(client.gate, Configure(False, ()))
            hear(client.gate, CLIENT_OF_GATE)
            _send(datagrams, packet)
            return client.gate

        return violate

    hello, everything = Hello(VERSION), Capture(True, True, ())
    udp = _socket(socket.AF_INET, socket.SOCK_DGRAM)
    return {
        "nothing": marking(_socket(socket.AF_INET6, socket.SOCK_STREAM)),
        "empty": in_state(packet=b""),
        "too large": in_state(hello, packet=b"x" * (MONITOR.largest + 1)),
        "unknown": in_state(hello, packet=_encode(["exec", "id"])),
        "first of all": in_state(packet=_encode(everything)),
        "hello twice": in_state(hello, packet=_encode(hello)),
        "capture twice": in_state(hello, everything, packet=_encode(everything)),
        "no prefix": in_state(hello, packet=_encode(Capture(False, False, (Prefix(b"12345", 8),)))),
        "pause for ever": in_state(hello, everything, packet=_encode(Pause(2**62))),
        "253 descriptors": in_state(hello, packet=_encode(everything), fds=[2] * 253),
        "mark: no descriptor": marking(),
        "mark: two descriptors": marking(udp, udp),
        "mark: 253 descriptors": marking(*[udp] * 253),
        "mark: not yet": in_state(packet=_encode(Mark()), fds=[udp]),
        "mark: no socket": marking(2),
        "mark: a device": marking(os.open("/dev/net/tun", os.O_RDWR)),
        "mark: of the machine": marking(_socket(socket.AF_UNIX, socket.SOCK_STREAM)),
        "mark: netlink": marking(_socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        "mark: another protocol": marking(_socket(socket.AF_INET, socket.SOCK_STREAM, _MPTCP)),
        "mark: of another network": marking(_socket_elsewhere()),
        "gate: empty": of_gate(b""),
        "gate: too large": of_gate(b"x" * (GATE.largest + 1)),
        "gate: unknown": of_gate(_encode(["exec", "id"])),
        "gate: no name": no_name,
        "gate: no link": of_gate(_encode(Configure(True, ())), fds=[2]),
        "gate: no tap": of_gate(_encode(Copy()), fds=[2]),
        "gate: 253 descriptors": of_gate(_encode(Configure(True, ())), fds=[2] * 253),
        "datagrams: too large": of_datagrams(b"x" * (datagram.GATE.largest + 1)),
        "datagrams: unknown": of_datagrams(_encode(["exec", "id"])),
        "datagrams: no port": of_datagrams(_encode(["deliver", 1, "192.0.2.1", 0, b""])),
    }


def _send(link: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # closed already
        socket.send_fds(link, [packet], fds)


def _socket(family: int, kind: int, protocol: int = 0) -> int:
    return socket.socket(family, kind, protocol).detach()


def _socket_elsewhere() -> int:
    """Return a socket of a network namespace that we have made, and are root of."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            socket.send_fds(theirs, [b"made"], [_socket(socket.AF_INET, socket.SOCK_DGRAM)])
        os._exit(0)
    theirs.close()
    _, (fd,), _, _ = socket.recv_fds(ours, 8, 1)
    os.waitpid(pid, 0)
    return fd


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


def _valid(receives: Any, role: Role) -> list[tuple[bytes, Message]]:
    """Return messages with extreme values, as octets and as what they mean."""
    found = []
    for packet in itertools.chain.from_iterable(map(encodings, kinds(receives))):
        with suppress(msgspec.MsgspecError, ValueError):
            message: Message = role.decoder.decode(packet)
            if len(packet) <= message.SIZE:
                found.append((packet, message))
    return found


def _do_all(uid: int, address: str, port: int) -> None:
    client = Client(uid)
    client.welcome()
    hear(client.gate, CLIENT_OF_GATE)
    families, kinds = (socket.AF_INET, socket.AF_INET6), (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    sockets = [_socket(*each) for each in itertools.product(families, kinds) for _ in range(50)]
    marked = [client.ask(Mark(), sock)[0] for sock in sockets]
    print("sockets", marked.count(Marked()), flush=True)
    prefixes = [Prefix(bytes(4), 0), Prefix(bytes(16), 0), Prefix(b"\xff" * 4, 32)]
    prefixes += [Prefix(bytes([127, 0, 0, 0]), 8), Prefix(b"\xff" * 16, 128)]
    prefixes += [Prefix(bytes([10, n // 256, n % 256, 0]), 24) for n in range(MAX_PREFIXES - 5)]
    answer, _ = client.ask(Capture(True, True, tuple(prefixes), kill_switch=True, lan=False))
    print("captured", type(answer).__name__, flush=True)
    for seconds in (3600, 1, 0, 0, 3600, 0):
        client.ask(Pause(seconds))
    sent = 0
    for packet, message in _valid(ToGate, GATE):
        if not isinstance(message, Configure):
            client.gate.settimeout(TIMEOUT_S)
            _send_whole(client.gate, packet, message.FDS)
            sent += 1
            while select.select([client.gate], [], [], 0)[0]:
                hear(client.gate, CLIENT_OF_GATE)
    datagrams = configure(client.gate, Configure(False, ("a.example",)))
    hear(client.gate, CLIENT_OF_GATE)
    for packet, _ in _valid(datagram.ToGate, datagram.GATE):
        datagrams.settimeout(TIMEOUT_S)
        datagrams.send(packet)
        sent += 1
    print("sent to the gate", sent, flush=True)
    print("holding", flush=True)
    flow = _take_flow(client)
    print("spoofed", _reach(flow, address, port), flush=True)
    select.select([], [], [])


def _send_whole(link: socket.socket, packet: bytes, fds: int) -> None:
    """Send a message with the descriptors that belong to it: links of which nobody reads a word."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(fds)]
    socket.send_fds(link, [packet], [theirs.fileno() for _, theirs in pairs])


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
        sock.settimeout(10)
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
    udp = _socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        answer, _ = client.ask(Mark(), udp)
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
