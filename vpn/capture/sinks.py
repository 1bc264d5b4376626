"""The sinks of captured packets: a capture file, or lines on the screen."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from shim.protocol.tap import SNAP_BYTES, Copied
from vpn.capture import lines, pcapng
from vpn.capture.headers import Headers
from vpn.errors import OverlayError
from vpn.text import printable


class Sink(Protocol):
    """A sink of captured packets."""

    def write(self, packet: Copied, headers: Headers | None, dropped: int) -> None:
        """Take a packet; `dropped` were lost before it. Raises OSError, OverlayError."""
        ...


class Lines:
    """Prints a line of text for each packet."""

    def write(self, packet: Copied, headers: Headers | None, dropped: int) -> None:
        """Print a packet. Raises OSError."""
        if dropped:
            sys.stdout.write(f"({dropped} lost)\n")
        time = datetime.fromtimestamp(packet.time_ns / 1e9)
        length, name, out = packet.length, packet.name, packet.is_outgoing
        line = lines.line(time, headers, length, printable(name), out=out)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class File:
    """A capture file, of whole blocks at any moment. "-" is the standard output."""

    def __init__(self, path: str, interface: str) -> None:
        """Begin a file, which nobody else may read: it has everything in it. Raises OverlayError.

        One that is there is overwritten.
        """
        self._path = path
        self._size = 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = 1 if path == "-" else os.open(path, flags, 0o600)
        except OSError as error:
            raise OverlayError(f"cannot write {path}: {error.strerror}") from error
        self._append(pcapng.header(interface, SNAP_BYTES))

    def write(self, packet: Copied, headers: Headers | None, dropped: int) -> None:
        """Append a packet. Raises OverlayError when there is no room, BrokenPipeError."""
        self._append(
            pcapng.packet(
                packet.time_ns,
                packet.packet,
                packet.length,
                is_outgoing=packet.is_outgoing,
                comment=packet.name,
                dropped=dropped,
            )
        )

    def _append(self, block: bytes) -> None:
        """Write a block, or nothing of it where the file can be cut back to before it."""
        left = memoryview(block)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            self._cut_back()
            raise OverlayError(
                f"cannot write {self._path}: {error.strerror}; it has what came before"
            ) from error
        except BaseException:
            self._cut_back()
            raise
        self._size += len(block)

    def _cut_back(self) -> None:
        if self._path != "-":
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
