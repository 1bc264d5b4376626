"""A connection to the system's message bus: calls, and their answers in time.

jeepney encodes and parses messages, and does no I/O here. Answers are bounded: `LARGEST` octets a
message, and one deadline from the connection to the last answer. Messages that do not answer the
last call are dropped.

Source: the D-Bus Specification.
"""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from typing import Any, Final

from jeepney import DBusAddress, HeaderFields, Message, MessageType, Parser, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.low_level import MessageFlag

from shim.protocol.resolved import BUS
from shim.resolved.methods import Call

SYSCALLS: Final = frozenset({"poll", "recvfrom", "sendto"})
"""Those of a call; the connection is made before a filter is installed."""

LARGEST: Final = 1 << 16

_READ: Final = 4096

_BUS_SERVICE: Final = "org.freedesktop.DBus"
_BUS_PATH: Final = "/org/freedesktop/DBus"
_NO_AUTO_START: Final = MessageFlag.no_auto_start


class CallError(Exception):
    """A call was answered by an error; the text is its name."""


class Bus:
    """One connection. Methods raise OSError: TimeoutError when the deadline has passed."""

    def __init__(self, deadline_s: float) -> None:
        """Connect before a time on the monotonic clock. Raises FileNotFoundError without a bus."""
        self._deadline_s = deadline_s
        self._parser = Parser()
        self._serial = 0
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.setblocking(False)
            self._sock.connect(BUS)
            self._authenticate()
            self.call(Call(_BUS_SERVICE, _BUS_PATH, _BUS_SERVICE, "Hello", "", ()))
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def give_until(self, deadline_s: float) -> None:
        """Set the deadline, on the monotonic clock, for everything that follows."""
        self._deadline_s = deadline_s

    def has(self, service: str) -> bool:
        """Whether a service runs; it is not started."""
        of = (_BUS_SERVICE, _BUS_PATH, _BUS_SERVICE)
        return bool(self.call(Call(*of, "NameHasOwner", "s", (service,)))[0])

    def call(self, call: Call) -> tuple[Any, ...]:
        """Call a method and return its results. Raises CallError."""
        self._serial += 1
        address = DBusAddress(call.path, bus_name=call.service, interface=call.interface)
        message = new_method_call(address, call.method, call.signature or None, call.arguments)
        message.header.flags = _NO_AUTO_START
        self._send(message.serialise(serial=self._serial))
        while True:
            answer = self._receive()
            if answer.header.fields.get(HeaderFields.reply_serial) == self._serial:
                break
        if answer.header.message_type == MessageType.error:
            raise CallError(str(answer.header.fields.get(HeaderFields.error_name, "")))
        return tuple(answer.body)

    def _authenticate(self) -> None:
        dialogue = Authenticator()
        try:
            for words in dialogue:
                self._send(words)
                dialogue.feed(self._read())
        except (AuthenticationError, ValueError) as error:
            raise PermissionError("the message bus does not let us in") from error
        self._send(BEGIN)

    def _receive(self) -> Message:
        size = 0
        while (message := self._next()) is None:
            octets = self._read()
            size += len(octets)
            if size > LARGEST:
                raise ConnectionError("a message of the bus is too large")
            self._parser.add_data(octets)
        return message

    def _next(self) -> Message | None:
        try:
            return self._parser.get_next_message()
        except Exception as error:  # jeepney has no error class for it
            raise ConnectionError("the bus has sent what is no message") from error

    def _send(self, octets: bytes) -> None:
        while octets:
            self._wait(select.POLLOUT)
            with suppress(BlockingIOError):
                octets = octets[self._sock.send(octets) :]

    def _read(self) -> bytes:
        while True:
            self._wait(select.POLLIN)
            with suppress(BlockingIOError):
                octets = self._sock.recv(_READ)
                if not octets:
                    raise ConnectionResetError("the bus has gone")
                return octets

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._sock, event)
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TimeoutError("no answer in time")
