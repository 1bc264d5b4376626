"""`overlay-vpn capture`: the packets of the tunnel's device, as lines or as a pcapng file."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import closing

import click

from shim.protocol import DEVICE
from shim.protocol.link import Link, LinkClosedError, ViolationError
from shim.protocol.tap import Copied, Tapped
from vpn.capture import expression, headers
from vpn.capture.expression import Filter
from vpn.capture.sinks import File, Lines, Sink
from vpn.cli.query_options import with_run
from vpn.console import say
from vpn.control import client as control
from vpn.errors import OverlayError, UsageError


@click.command("capture")
@click.argument("words", metavar="[FILTER]", nargs=-1)
@click.option("-w", "path", metavar="FILE", help="Write a pcapng file; - means standard output.")
@click.option("-c", "count", metavar="COUNT", type=click.IntRange(1), help="Exit after COUNT.")
@with_run
def command(
    words: tuple[str, ...], path: str | None, count: int | None, run_id: str | None
) -> None:
    """Print each packet of the tunnel's device, until Ctrl-C.

    FILTER is tcp, udp, icmp, dns, 'host NAME', 'host ADDRESS', 'host PREFIX' or 'port NUMBER',
    or several of these joined by 'and'.
    """
    wanted = expression.parse(" ".join(words))
    if path == "-" and sys.stdout.isatty():
        raise UsageError("a capture file is not for a terminal; write it with -w FILE")
    connection, link = control.capture(run_id)
    with connection, closing(link):
        sink = Lines() if path is None else File(path, DEVICE)
        capture = Capture(link, wanted, sink, count)
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            capture.run()
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            # The reader has gone; what is left in our buffer must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        finally:
            say(f"{capture.written} packets, {capture.lost} lost")


class Capture:
    """One capture, until COUNT packets are written."""

    def __init__(self, link: Link, wanted: Filter, sink: Sink, count: int | None) -> None:
        """Without a `count` it goes on until the tunnel ends."""
        self._link = link
        self._wanted = wanted
        self._sink = sink
        self._count = count
        self._lost_before = 0
        self._has_begun = False
        self.written = 0
        self.lost = 0

    @property
    def _is_enough(self) -> bool:
        return self._count is not None and self.written >= self._count

    def run(self) -> None:
        """Write packets until there are `count`. Raises OverlayError, BrokenPipeError."""
        try:
            while not self._is_enough:
                select.select([self._link], [], [])
                while not self._is_enough and (received := self._link.receive()):
                    self._on_message(received[0])
        except (LinkClosedError, ViolationError):
            raise OverlayError("the tunnel has ended, and the capture with it") from None

    def _on_message(self, message: object) -> None:
        match message:
            case Tapped() if not self._has_begun:
                self._has_begun = True
                say("capturing; Ctrl-C ends it")
            case Copied():
                self._on_packet(message)

    def _on_packet(self, packet: Copied) -> None:
        self.lost += packet.dropped
        self._lost_before += packet.dropped
        found = headers.read(packet.packet, packet.length)
        if self._wanted.matches(found, packet.name):
            self._sink.write(packet, found, self._lost_before)
            self._lost_before = 0
            self.written += 1
