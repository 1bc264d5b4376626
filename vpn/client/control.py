"""How the command line asks a running client: `status`, `pause`, `down`, over a Unix socket.

One packet asks, one answers. Only root and the user whose client it is may ask; others get their
answer in one word. The peer is whom the kernel says it is (unix(7), SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from shim.protocol import CONTROL, JOURNAL, LOCK, state_directory
from shim.protocol.monitor import MAX_PAUSE_S
from vpn.errors import NotPermittedError, OverlayError

SCHEMA: Final = 1
TIMEOUT_S: Final = 10.0

_MAX_PACKET: Final = 65536
_UCRED: Final = struct.Struct("3i")
_NOT_PERMITTED: Final = b"not permitted"

State = Literal["down", "blocked", "connecting", "connected", "reconnecting", "closing"]


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What `overlay-vpn status --json` prints. Sizes are bytes, times seconds."""

    schema: int = SCHEMA
    state: State
    target: str = ""
    transport: str = ""
    device: str = ""
    dns: str = ""
    routes: tuple[str, ...] = ()
    pid: int = 0
    uptime_s: int = 0
    attempts: int = 0
    """How often a session has been tried for since the last one was lost."""
    retry_in_s: int = 0
    """Until the next try; 0 while one is running."""
    last_error: str = ""
    """Why there is no session any more, or yet."""
    flows_active: int = 0
    flows_opened: int = 0
    flows_refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    kill_switch: bool = False
    lan: bool = True
    paused_s: int = 0
    warnings: tuple[str, ...] = ()


DOWN: Final = Status(state="down")
BLOCKED: Final = Status(state="blocked", kill_switch=True)
"""Nobody runs, and the kill switch of who ran last holds."""


class ControlServer:
    """Answers on a listener that the monitor has made."""

    def __init__(
        self,
        listener: socket.socket,
        status: Callable[[], Status],
        down: Callable[[], Awaitable[None]],
        pause: Callable[[int], Awaitable[None]],
    ) -> None:
        """`down` takes everything down, `pause` is given seconds; the answer waits for them."""
        listener.setblocking(False)
        self._listener = listener
        self._status = status
        self._down = down
        self._pause = pause
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            task = asyncio.create_task(self._answer(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Let the answers that wait for `down` go out."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    async def _answer(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    question = await loop.sock_recv(sock, 64)
                if _peer_uid(sock) not in (0, os.geteuid()):
                    await loop.sock_sendall(sock, _NOT_PERMITTED)
                elif question == b"status":
                    await loop.sock_sendall(sock, msgspec.json.encode(self._status()))
                elif question == b"down":
                    await self._down()
                    await loop.sock_sendall(sock, b"done")
                elif question.startswith(b"pause "):
                    await loop.sock_sendall(sock, await self._pause_for(question[6:]))
            except (OSError, TimeoutError):
                return

    async def _pause_for(self, seconds: bytes) -> bytes:
        try:
            await self._pause(min(int(seconds), MAX_PAUSE_S))
        except (OverlayError, ValueError) as error:
            return str(error).encode()
        return b"done"


def _peer_uid(sock: socket.socket) -> int:
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def query() -> Status:
    """Return the status of the client of this network namespace. Raises OverlayError."""
    try:
        answer = _ask("status", TIMEOUT_S)
        if not answer:  # nobody there, or gone before it could say so
            return BLOCKED if is_blocked() else DOWN
        return msgspec.json.decode(answer, type=Status)
    except (TimeoutError, msgspec.MsgspecError):
        raise OverlayError(
            "the running client does not answer; run 'overlay-vpn down' as root"
        ) from None


def stop(timeout_s: float = 30.0) -> bool:
    """Take down what runs in this network namespace; False if nothing did. Raises OverlayError."""
    try:
        answer = _ask("down", timeout_s)
    except TimeoutError:
        raise OverlayError(f"the client does not answer; end process {owner()} as root") from None
    if answer is None:
        return False
    wait_until_gone(timeout_s)
    return True


def pause(seconds: int) -> bool:
    """Pause what runs in this network namespace; False if nothing did. Raises OverlayError."""
    answer = _ask(f"pause {seconds}", TIMEOUT_S)
    if answer not in (None, b"done"):
        raise OverlayError(answer.decode(errors="replace") or "the client does not answer")
    return answer is not None


def is_blocked() -> bool:
    """Whether nobody runs here, and the kill switch of who ran last holds."""
    try:
        with open(f"{state_directory()}/{JOURNAL}", "rb") as file:
            return b'"guard"' in file.read() and owner() is None
    except OSError:
        return False


def owner() -> int | None:
    """Return the process that undoes everything when it is told to end, None if none runs.

    The number in the lock is to be believed only while somebody holds the lock.
    """
    try:
        with open(f"{state_directory()}/{LOCK}") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except (OSError, ValueError):
        pass
    return None


def wait_until_gone(timeout_s: float) -> None:
    """Wait until the last trace is gone. Raises OverlayError when it is not in time."""
    deadline = time.monotonic() + timeout_s
    while os.path.exists(state_directory()):
        if time.monotonic() > deadline:
            raise OverlayError("the network is not yet as before; run 'overlay-vpn recover'")
        time.sleep(0.02)


def _ask(verb: str, timeout_s: float) -> bytes | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(f"{state_directory()}/{CONTROL}")
            sock.sendall(verb.encode())
            answer = sock.recv(_MAX_PACKET)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except ConnectionError:
            answer = b""
    if answer == _NOT_PERMITTED:
        raise NotPermittedError(
            "this overlay-vpn belongs to another user; run it as that user or with sudo"
        )
    return answer
