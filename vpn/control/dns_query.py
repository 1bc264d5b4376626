"""A stub resolver: asks one server as an application does, over UDP and then TCP. RFC 1035, 7766.

It is told whom to ask, and asks from the network namespace that it is in.
"""

from __future__ import annotations

import secrets
import socket
import time
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from dns import framing, resolv_conf
from dns.codes import IN, RRType
from dns.names import Labels, fold, to_wire
from dns.reply import Reply, read_reply
from dns.wire import HEADER, QUESTION_TAIL, RD, WireError

TIMEOUT_S: Final = 5.0
TRIES: Final = 3
"""Together as long as the gate may take."""
_PORT: Final = 53
_PAYLOAD: Final = 1232
_OPT: Final = b"\0" + RRType.OPT.to_bytes(2) + _PAYLOAD.to_bytes(2) + bytes(6)
_MAX_MESSAGE: Final = 65535


def server_of(path: str = "/etc/resolv.conf") -> str:
    """Return whom the applications of this machine ask first."""
    try:
        with open(path, errors="replace") as file:
            return resolv_conf.parse(file.read()).servers[0]
    except OSError:
        return resolv_conf.parse("").servers[0]


def is_loopback(server: str) -> bool:
    """Say whether a server is this machine itself."""
    return ip_address(server).is_loopback


def ask(server: str, labels: Labels, rtype: int) -> tuple[Reply, bool]:
    """Return an answer, and whether it came over TCP.

    Raises OSError, TimeoutError if nobody answers, and WireError for what is no message.
    """
    ident = secrets.randbits(16)
    query = HEADER.pack(ident, RD, 1, 0, 0, 1) + to_wire(labels)
    query += QUESTION_TAIL.pack(rtype, IN) + _OPT
    where = socket.getaddrinfo(server, _PORT, flags=socket.AI_NUMERICHOST)[0]
    reply = _ask_datagram(where[0], where[4], query, (ident, fold(labels), rtype))
    if not reply.is_truncated:
        return reply, False
    with socket.socket(where[0], socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S * TRIES)
        sock.connect(where[4])
        sock.sendall(framing.frame(query))
        stream = framing.Framing()
        while data := sock.recv(_MAX_MESSAGE):
            for message in stream.feed(data):
                answer = read_reply(message, ident, fold(labels), rtype)
                if answer is not None:
                    return answer, True
    raise WireError("the connection ended without an answer")


def _ask_datagram(
    family: int, where: object, query: bytes, wanted: tuple[int, Labels, int]
) -> Reply:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(where)  # type: ignore[arg-type]
        for _ in range(TRIES):
            sock.send(query)
            deadline_s = time.monotonic() + TIMEOUT_S
            with suppress(TimeoutError):
                while (left_s := deadline_s - time.monotonic()) > 0:
                    sock.settimeout(left_s)
                    reply = read_reply(sock.recv(_MAX_MESSAGE), *wanted)
                    if reply is not None:
                        return reply
    raise TimeoutError
