"""A gate over sockets in place of devices: what it does before it knows which flows there are."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from scapy.layers.inet import IP, TCP

from dns.pool import Pool, buffer_size
from shim.gate import loop as module
from shim.gate import packet
from shim.gate.loop import Gate
from shim.gate.names import Names
from shim.gate.tun import NO_OFFLOAD
from shim.protocol import POOL4, POOL6
from shim.protocol.gate import (
    CLIENT_OF_GATE,
    GATE,
    Accepted,
    Adopt,
    Configure,
    Configured,
    Known,
    Open,
    Started,
)
from shim.protocol.link import LinkClosedError, Message, pair

SLOTS = 16
SETTINGS = Configure(False, ())


class Bench:
    """A running gate of a generation, and the far ends of all that it holds."""

    def __init__(self, generation: int) -> None:
        self.capture, capture = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.flow, flow = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client, gate = pair(CLIENT_OF_GATE, GATE)
        self.listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        for held in (capture, flow, self.listener):
            held.setblocking(False)
        memory = memoryview(bytearray(buffer_size(SLOTS)))
        names = Names(Pool(memory, IPv4Network(POOL4), IPv6Network(POOL6), b"key", SLOTS))

        def run() -> None:
            args = (capture.fileno(), flow.fileno(), self.listener, gate, names, generation)
            with suppress(LinkClosedError):
                Gate(*args).run()
            for held in (capture, flow, self.listener, gate):
                held.close()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def hear(self) -> tuple[Message, list[int]]:
        """Return what the gate says next to its client."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            received = self.client.receive()
            if received is not None:
                return received
            time.sleep(0.001)
        raise TimeoutError("the gate says nothing")

    def passes(self, framed: bytes) -> bool:
        """Say whether the flow device gets what is next, which must be `framed`, by and by."""
        self.flow.settimeout(0.3)
        with suppress(TimeoutError):
            assert self.flow.recv(65536) == framed
            return True
        return False

    def close(self) -> None:
        self.client.close()
        self._thread.join(5)
        assert not self._thread.is_alive()
        self.capture.close()
        self.flow.close()


@pytest.fixture
def first() -> Iterator[Bench]:
    bench = Bench(1)
    yield bench
    bench.close()


@pytest.fixture
def second() -> Iterator[Bench]:
    bench = Bench(2)
    yield bench
    bench.close()


def segment(flags: str = "A") -> bytes:
    layers = IP(src="198.18.0.2", dst="203.0.113.7") / TCP(sport=4000, dport=443, flags=flags)
    return NO_OFFLOAD + bytes(layers)


def test_first_gate_says_so_and_serves_at_once(first: Bench) -> None:
    assert first.hear() == (Started(1), [])
    first.capture.send(segment())
    assert first.passes(segment())


def test_next_gate_serves_when_it_has_heard_of_the_flows(second: Bench) -> None:
    assert second.hear() == (Started(2), [])
    second.capture.send(segment())
    assert not second.passes(segment())
    second.client.send(SETTINGS)
    assert second.hear() == (Configured(), [])
    assert second.passes(segment())


def test_segment_of_a_flow_that_nobody_knows_is_left_to_the_kernel(second: Bench) -> None:
    second.client.send(SETTINGS)
    second.capture.send(segment())
    assert second.passes(segment())
    second.capture.settimeout(0.05)
    with pytest.raises(TimeoutError):
        second.capture.recv(65536)  # no reset of ours


def test_client_that_says_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEARN_S", 0.05)
    bench = Bench(2)
    bench.capture.send(segment())
    assert bench.passes(segment())
    bench.close()


def test_connection_in_the_listener_is_handed_over_by_the_next_gate(second: Bench) -> None:
    app = socket.create_connection(second.listener.getsockname()[:2])
    host = ip_address("::1").packed
    key = packet.flow_key(host, host, app.getsockname()[1], app.getpeername()[1])
    second.client.send(Adopt((Known(7, key, False),)))
    second.client.send(SETTINGS)
    assert second.hear() == (Started(2), [])
    assert second.hear() == (Configured(), [])
    message, (fd,) = second.hear()
    assert message == Accepted(7)
    with socket.socket(fileno=fd) as accepted:
        accepted.sendall(b"through")
        assert app.recv(64) == b"through"
    app.close()


def test_syn_that_comes_early_is_asked_about_afterwards(second: Bench) -> None:
    second.capture.send(segment("S"))
    second.client.send(SETTINGS)
    assert [second.hear()[0] for _ in range(2)] == [Started(2), Configured()]
    asked, _ = second.hear()
    assert isinstance(asked, Open)
    assert (asked.host, asked.port) == ("203.0.113.7", 443)
