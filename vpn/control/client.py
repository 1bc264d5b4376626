"""The requests of the command line to a running tunnel, and the errors that they end in.

A `run_id` of None means the tunnel of this network namespace.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Final, TypeVar

import msgspec

from shim.protocol.handover import adopt
from shim.protocol.link import Link, LinkClosedError, Message, ViolationError
from shim.protocol.paths import CONTROL, JOURNAL, LOCK, state_directory
from shim.protocol.tap import TAP
from vpn.control import messages, runs
from vpn.control.client_connection import NOBODY, Connection, connect, error_of
from vpn.control.messages import (
    BLOCKED,
    DOWN,
    MAX_FLOW_ID,
    DestinationStatus,
    DnsStatus,
    FlowStatus,
    Refusal,
    RefusedError,
    Request,
    Resolution,
    Status,
)
from vpn.errors import OverlayError

MAX_FLOWS: Final = 65536
_SILENT: Final = "the running client does not answer as it should; it may have just ended"

M = TypeVar("M", bound=Message)


def query() -> Status:
    """Return the status of the tunnel of this network namespace. Raises OverlayError."""
    try:
        return _ask_here(messages.GetStatus(), messages.StatusAnswer).status
    except (*NOBODY, LinkClosedError):  # none, or gone before it could answer
        return BLOCKED if is_blocked() else DOWN
    except (TimeoutError, ViolationError):
        raise OverlayError(
            "the running client does not answer; run 'overlay-vpn down' as root"
        ) from None


def stop(timeout_s: float = 30.0) -> bool:
    """Take down what runs in this network namespace; False if nothing did. Raises OverlayError."""
    try:
        _ask_here(messages.TakeDown(), messages.Done, timeout_s)
    except NOBODY:
        return False
    except TimeoutError:
        raise OverlayError(f"the client does not answer; end process {owner()} as root") from None
    except (LinkClosedError, ViolationError):
        pass  # it is going down already; what is left of it shows below
    wait_until_gone(timeout_s)
    return True


def pause(seconds: int) -> bool:
    """Pause what runs in this network namespace; False if nothing did. Raises OverlayError."""
    try:
        _ask_here(messages.PauseFor(seconds), messages.Done)
    except NOBODY:
        return False
    except (TimeoutError, LinkClosedError, ViolationError):
        raise OverlayError("the client does not answer") from None
    return True


def is_there() -> bool:
    """Whether there is a tunnel of this network namespace."""
    try:
        connect(_socket_path()).close()
    except NOBODY:
        return False
    return True


def is_blocked() -> bool:
    """Whether nothing runs here, and the kill switch of the instance that ran last holds."""
    try:
        with open(f"{state_directory()}/{JOURNAL}", "rb") as file:
            return b'"guard"' in file.read() and owner() is None
    except OSError:
        return False


def owner() -> int | None:
    """Return the PID that stops the instance when it exits; 0 while one starts, None if none runs.

    The number in the lock is valid only while a process holds the lock.
    """
    try:
        with open(f"{state_directory()}/{LOCK}") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0)
    except (OSError, ValueError):
        pass
    return None


def wait_until_gone(timeout_s: float) -> None:
    """Wait until every change is undone. Raises OverlayError if no process is left to undo them."""
    deadline = time.monotonic() + timeout_s
    while os.path.exists(state_directory()):
        if is_blocked() or time.monotonic() > deadline:
            raise OverlayError("the network is not yet as before; run 'overlay-vpn recover'")
        time.sleep(0.02)


def list_flows(run_id: str | None) -> list[FlowStatus]:
    """Return the flows of a tunnel, oldest first. Raises OverlayError."""
    flows: list[FlowStatus] = []
    with _asking(run_id, messages.ListFlows()) as connection:
        is_last = False
        while not is_last:
            page, _ = connection.receive(messages.FlowPage)
            flows += page.flows
            is_last = page.is_last
            if len(flows) > MAX_FLOWS:
                raise ViolationError("more flows than there can be")
    return flows


def kill_flow(run_id: str | None, flow: str) -> None:
    """Reset a flow. Raises OverlayError, also if there is none of this id."""
    if len(flow) > MAX_FLOW_ID:
        raise OverlayError("there is no flow of such an id; see 'overlay-vpn flows'")
    with _asking(run_id, messages.KillFlow(flow.encode(errors="replace").decode())) as connection:
        try:
            connection.receive(messages.Done)
        except RefusedError as refused:
            if refused.why is not Refusal.NO_FLOW:
                raise
            line = f"there is no flow {flow!r}; see 'overlay-vpn flows'"
            raise OverlayError(line) from None


def capture(run_id: str | None) -> tuple[Connection, Link]:
    """Return the link from which packets come, after the connection that keeps the capture going.

    Closing the connection ends the capture. Raises OverlayError.
    """
    connection = _connect(run_id, messages.CapturePackets())
    try:
        with _as_overlay_error():
            _, (fd,) = connection.receive(messages.Capturing)
            return connection, adopt(fd, TAP)
    except BaseException:
        connection.close()
        raise


def dns_status(run_id: str | None) -> DnsStatus:
    """Return how names are answered. Raises OverlayError."""
    with _asking(run_id, messages.GetDnsStatus()) as connection:
        return connection.receive(messages.DnsStatusAnswer)[0].status


def resolution_of(run_id: str | None, name: str, rtype: int) -> Resolution:
    """Return how a query for records of a type would be answered. Raises OverlayError."""
    with _asking(run_id, messages.GetResolution(name, rtype)) as connection:
        return connection.receive(messages.ResolutionAnswer)[0].resolution


def destination_of(run_id: str | None, host: str, port: int) -> DestinationStatus:
    """Return what becomes of a packet to a name or address. Raises OverlayError."""
    with _asking(run_id, messages.GetDestination(host, port)) as connection:
        found = connection.receive(messages.DestinationAnswer)[0].destination
        try:
            addresses = tuple(str(ip_address(one)) for one in found.addresses)
        except ValueError:
            raise ViolationError("not an address") from None
    return msgspec.structs.replace(found, addresses=addresses)


def _connect(run_id: str | None, request: Request) -> Connection:
    if run_id is not None:
        return runs.connect(run_id, request)
    try:
        return Connection(_socket_path(), request)
    except NOBODY:
        raise OverlayError("overlay-vpn is not up here; see 'overlay-vpn status'") from None
    except OSError:
        raise OverlayError(_SILENT) from None


@contextmanager
def _asking(run_id: str | None, request: Request) -> Iterator[Connection]:
    """Make a request; whatever is wrong with the answer is an OverlayError."""
    with _connect(run_id, request) as connection, _as_overlay_error():
        yield connection


@contextmanager
def _as_overlay_error() -> Iterator[None]:
    """Turn what `Connection.receive` raises into errors for the user."""
    try:
        yield
    except RefusedError as refused:
        raise error_of(refused) from None
    except (LinkClosedError, TimeoutError, ViolationError):
        raise OverlayError(_SILENT) from None


def _ask_here(request: Request, kind: type[M], timeout_s: float | None = None) -> M:
    """Return the answer of the tunnel of this network namespace. Raises as `Connection` does."""
    with Connection(_socket_path(), request, timeout_s) as connection:
        try:
            return connection.receive(kind)[0]
        except RefusedError as refused:
            raise error_of(refused) from None


def _socket_path() -> str:
    return f"{state_directory()}/{CONTROL}"
