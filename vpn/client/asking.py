"""How the command line asks a running client about flows and packets; see `inspection.py`.

The client is that of this network namespace, or of a run of this user. What it says is believed
as little as anything else that comes from another process: root may ask anybody's.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Final, TypeVar

import msgspec

from shim.protocol.handover import adopt
from shim.protocol.link import Link, ViolationError
from shim.protocol.tap import TAP
from vpn.client import listing, questions
from vpn.control import client as control
from vpn.control import runs
from vpn.control.messages import MAX_BYTES, DestinationStatus, DnsStatus, FlowStatus, Resolution
from vpn.errors import OverlayError

MAX_FLOWS: Final = 65536

D = TypeVar("D")


def list_flows(run_id: str | None) -> list[FlowStatus]:
    """Return the flows of a client, oldest first. Raises OverlayError."""
    flows: list[FlowStatus] = []
    with _ask(run_id, questions.FLOWS) as sock:
        while (packet := _receive(sock)) != listing.END:
            try:
                flows += listing.unpack(packet)
            except msgspec.MsgspecError:
                raise _silent() from None
            if len(flows) > MAX_FLOWS:
                raise _silent()
    return flows


def kill_flow(run_id: str | None, flow: str) -> None:
    """Reset a flow. Raises OverlayError, also if there is none of this id."""
    with _ask(run_id, questions.KILL + flow.encode(errors="replace")) as sock:
        if _receive(sock) != questions.DONE:
            raise OverlayError(f"there is no flow {flow!r}; see 'overlay-vpn flows'")


def capture(run_id: str | None) -> tuple[socket.socket, Link]:
    """Return where packets come from, after the connection to keep meanwhile. Raises OverlayError.

    Whoever closes the latter has seen enough.
    """
    sock = _ask(run_id, questions.CAPTURE)
    try:
        answer, fds, _, _ = socket.recv_fds(sock, questions.MAX_PACKET, 1)
        if answer == questions.DONE and fds:
            return sock, adopt(fds[0], TAP)
    except (OSError, ViolationError):
        answer = b""
    sock.close()
    raise _refusal(answer)


def is_there() -> bool:
    """Whether there is a client of this network namespace."""
    sock = control.connect(questions.TIMEOUT_S)
    if sock is None:
        return False
    sock.close()
    return True


def dns_status(run_id: str | None) -> DnsStatus:
    """Return how names are answered. Raises OverlayError."""
    return _document(run_id, questions.DNS, DnsStatus)


def way_of(run_id: str | None, name: str, rtype: int) -> Resolution:
    """Return how a question about a name is answered. Raises OverlayError."""
    return _document(run_id, questions.WAY.format(rtype, name), Resolution)


def fate_of(run_id: str | None, host: str, port: int) -> DestinationStatus:
    """Return what becomes of a packet to a name or address. Raises OverlayError."""
    fate = _document(run_id, questions.FATE.format(port, host), DestinationStatus)
    try:
        found = tuple(str(ip_address(one)) for one in fate.addresses)
    except ValueError:
        raise _silent() from None
    return msgspec.structs.replace(fate, addresses=found)


def _document(run_id: str | None, question: str, kind: type[D]) -> D:
    document = b""
    with _ask(run_id, question.encode()) as sock:
        # The far end may have to be asked.
        sock.settimeout(questions.TIMEOUT_S)
        while (packet := _receive(sock)) != listing.END:
            if packet == questions.NOT_UP:
                raise _refusal(packet)
            document += packet
            if len(document) > MAX_BYTES:
                raise _silent()
    try:
        return msgspec.json.decode(document, type=kind)
    except msgspec.MsgspecError:
        raise _silent() from None


def _refusal(answer: bytes) -> OverlayError:
    if answer == questions.NOT_PERMITTED:
        return control.not_permitted()
    if answer == questions.BUSY:
        return OverlayError("there is a capture already; end that one first")
    if answer == questions.NOT_UP:
        return OverlayError("the tunnel is not up yet; see 'overlay-vpn status'")
    return _silent()


def _ask(run_id: str | None, question: bytes) -> socket.socket:
    """Return a connection on which a question has been asked. Raises OverlayError."""
    if len(question) > questions.MAX_QUESTION:
        raise OverlayError("there is no flow of such an id; see 'overlay-vpn flows'")
    sock = control.connect(questions.TIMEOUT_S) if run_id is None else runs.connect(run_id)
    if sock is None:
        raise OverlayError("overlay-vpn is not up here; see 'overlay-vpn status'")
    try:
        sock.sendall(question)
    except OSError:
        sock.close()
        raise _silent() from None
    return sock


def _receive(sock: socket.socket) -> bytes:
    """Return the next packet of an answer. Raises OverlayError."""
    try:
        packet = sock.recv(questions.MAX_PACKET)
    except OSError:
        raise _silent() from None
    if packet == questions.NOT_PERMITTED:
        raise control.not_permitted()
    if not packet:
        raise _silent()
    return packet


def _silent() -> OverlayError:
    return OverlayError("the running client does not answer as it should; it may have just ended")
