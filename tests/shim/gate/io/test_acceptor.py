"""What becomes of a connection that the kernel of the flow namespace has accepted."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest

from shim.gate.io.acceptor import Acceptor
from shim.gate.orders import Order, ResetSocket
from shim.gate.wire import packet
from shim.protocol.gate import DropReason

APP = ("198.18.0.2", 40000)
FAR = ("203.0.113.7", 443)
RESOLVER = ("198.18.0.1", 53)


class Connection:
    """An accepted socket between two addresses."""

    def __init__(self, own: tuple[object, ...]) -> None:
        self._own = own

    def getsockname(self) -> tuple[object, ...]:
        return self._own

    def detach(self) -> int:
        return 77


class Listener:
    """Accepts what it is given, or fails."""

    def __init__(self) -> None:
        self._end, self._other = os.pipe()
        self.next: tuple[Connection, tuple[object, ...]] | OSError | None = None

    def fileno(self) -> int:
        return self._end

    def accept(self) -> tuple[Connection, tuple[object, ...]]:
        if isinstance(self.next, OSError):
            raise self.next
        assert self.next is not None
        return self.next

    def begin(self) -> None:
        """Become readable."""
        os.write(self._other, b"x")

    def close(self) -> None:
        os.close(self._end)
        os.close(self._other)


class Bench:
    """An acceptor, and where connections go; it is a router and an executor in one."""

    def __init__(self) -> None:
        self.listener = Listener()
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.dropped: Counter[DropReason] = Counter()
        self.served: list[tuple[object, bytes, float]] = []
        self.keys: list[bytes] = []
        self.orders: list[Order] = []
        self.acceptor = Acceptor(
            self.poll,
            self.listener,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
        )

    @property
    def router(self) -> Bench:
        return self

    def on_accepted(self, key: bytes, connection: int) -> Order:
        self.keys.append(key)
        return ResetSocket(connection)

    def execute(self, orders: Iterable[Order]) -> None:
        self.orders += orders

    def add(self, sock: object, server: bytes, now: float) -> None:
        self.served.append((sock, server, now))

    def accept(self, own: tuple[object, ...], peer: tuple[object, ...]) -> None:
        self.listener.next = Connection(own), peer
        self.acceptor.on_event(1.0)

    def is_ready(self) -> bool:
        return bool(self.poll.poll(0))

    def close(self) -> None:
        self.poll.close()
        self.listener.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as one:
        yield one


def mapped(end: tuple[str, int]) -> tuple[object, ...]:
    return (f"::ffff:{end[0]}", end[1], 0, 0)


KEY4 = packet.flow_key(bytes([198, 18, 0, 2]), bytes([203, 0, 113, 7]), 40000, 443)


@pytest.mark.parametrize(
    ("own", "peer"), [(FAR, APP), (mapped(FAR), mapped(APP))], ids=["IPv4", "dual-stack"]
)
def test_connection_belongs_to_the_flow_from_the_peer_to_its_own_address(
    bench: Bench, own: tuple[object, ...], peer: tuple[object, ...]
) -> None:
    bench.accept(own, peer)
    assert bench.keys == [KEY4]
    assert bench.orders == [ResetSocket(77)]
    assert bench.served == []


def test_connection_over_ipv6_has_its_addresses_without_a_zone(bench: Bench) -> None:
    bench.accept(("2001:db8::7", 443, 0, 0), ("fe80::2%flow0", 40000, 0, 1))
    app = bytes.fromhex("fe80" + "00" * 13 + "02")
    far = bytes.fromhex("20010db8" + "00" * 11 + "07")
    assert bench.keys == [packet.flow_key(app, far, 40000, 443)]


def test_connection_to_the_resolver_is_served_here(bench: Bench) -> None:
    bench.accept(mapped(RESOLVER), mapped(APP))
    ((_, server, now),) = bench.served
    assert (server, now) == (socket.inet_aton(RESOLVER[0]), 1.0)
    assert bench.orders == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_listener_without_a_descriptor_left_waits_for_the_next_tick(
    bench: Bench, number: int
) -> None:
    bench.listener.begin()
    assert bench.is_ready()
    bench.listener.next = OSError(number, "full")
    bench.acceptor.on_event(1.0)
    assert bench.dropped == {DropReason.DESCRIPTORS: 1}
    assert not bench.is_ready()
    bench.acceptor.resume()
    assert bench.is_ready()


def test_connection_that_has_gone_again_stops_nothing(bench: Bench) -> None:
    bench.listener.begin()
    bench.listener.next = OSError(errno.ECONNABORTED, "gone")
    bench.acceptor.on_event(1.0)
    assert bench.is_ready()
    assert (bench.orders, bench.served) == ([], [])
