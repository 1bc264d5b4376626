"""Connecting to destinations; the network is the loopback, other failures are played."""

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transport_lab import free_port

from vpn.protocol.failure import Failure, OpenFailed
from vpn.server.dialer import Dialer, interleave, most_telling
from vpn.transport import dial

V4, V6 = socket.AF_INET, socket.AF_INET6


class World(Dialer):
    """A dialer for which names resolve, and connects end, as the test says.

    `fates` has, by address, an errno, a delay in seconds, or None for a success.
    """

    def __init__(self, names: dict[str, list[str]], fates: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._names = names
        self.fates = fates
        self.attempts: list[tuple[str, float]] = []

    async def resolve(self, host: str, port: int, family: Any = socket.AF_UNSPEC) -> Any:
        if host not in self._names:
            raise socket.gaierror(socket.EAI_NONAME, "no")
        return [(V6 if ":" in each else V4, (each, port)) for each in self._names[host]]


async def played(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def sock_connect(sock: socket.socket, address: tuple[str, int]) -> None:
        world.attempts.append((address[0], loop.time() - began))
        fate = world.fates[address[0]]
        if isinstance(fate, float):
            await asyncio.sleep(fate)
        elif fate is not None:
            raise OSError(fate, "played")

    monkeypatch.setattr(loop, "sock_connect", sock_connect, raising=False)


async def failure_of(dialer: Dialer, host: str, port: int) -> Failure:
    with pytest.raises(OpenFailed) as failed:
        await dialer.connect(host, port)
    return failed.value.failure


def test_loopback_open_and_closed(run: Callable) -> None:
    async def dialogue() -> None:
        dialer = Dialer()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            for host in ("127.0.0.1", "localhost"):
                with await dialer.connect(host, port) as connected:
                    assert connected.getpeername()[1] == port
                    assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    assert not connected.getblocking()
        closed = free_port(socket.SOCK_STREAM)
        for host in ("127.0.0.1", "localhost", "::1"):
            began = time.monotonic()
            assert await failure_of(dialer, host, closed) is Failure.ECONNREFUSED
            assert time.monotonic() - began < 5
        dialer.close()

    run(dialogue())


@pytest.mark.parametrize(
    ("host", "port", "failure"),
    [
        ("nowhere.invalid", 80, Failure.NXDOMAIN),
        ("", 80, Failure.NXDOMAIN),
        ("a" * 64 + ".invalid", 80, Failure.NXDOMAIN),
        ("a..invalid", 80, Failure.NXDOMAIN),
        ("nul\0.invalid", 80, Failure.NXDOMAIN),
        ("\udcff", 80, Failure.NXDOMAIN),
        ("255.255.255.255", 80, Failure.ENETUNREACH),
        ("127.0.0.1", 0, Failure.UNAVAILABLE),
        ("127.0.0.1", 65536, Failure.UNAVAILABLE),
    ],
)
def test_destinations_that_are_none(run: Callable, host: str, port: int, failure: Failure) -> None:
    async def dialogue() -> None:
        dialer = Dialer()
        assert await failure_of(dialer, host, port) is failure
        dialer.close()

    run(dialogue())


def test_families_take_turns() -> None:
    found = [(V6, ("a",)), (V6, ("b",)), (V6, ("c",)), (V4, ("x",))]
    assert [address[0] for _, address in interleave(found)] == ["a", "x", "b", "c"]
    assert interleave([]) == []


@given(st.lists(st.tuples(st.sampled_from([V4, V6]), st.tuples(st.integers()))))
def test_interleaving_keeps_all_and_their_order(found: list[Any]) -> None:
    woven = interleave(found)
    assert sorted(woven) == sorted(found)
    for family in (V4, V6):
        assert [each for each in woven if each[0] == family] == [
            each for each in found if each[0] == family
        ]


def test_second_family_wins_when_the_first_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dialogue() -> None:
        world = World({"h": ["2001:db8::1", "192.0.2.1"]}, {"2001:db8::1": 9.0, "192.0.2.1": None})
        await played(monkeypatch, world)
        with await world.connect("h", 80) as connected:
            assert connected.family == V4
        (first, _), (second, delay) = world.attempts
        assert (first, second) == ("2001:db8::1", "192.0.2.1")
        assert 0.2 < delay < 5
        world.close()

    asyncio.run(dialogue())


def test_refusal_starts_the_next_attempt_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "ATTEMPT_DELAY_S", 30.0)

    async def dialogue() -> None:
        fates = {"2001:db8::1": errno.ECONNREFUSED, "192.0.2.1": None}
        world = World({"h": list(fates)}, fates)
        await played(monkeypatch, world)
        (await world.connect("h", 80)).close()
        assert world.attempts[1][1] < 5
        world.close()

    asyncio.run(dialogue())


@pytest.mark.parametrize(
    ("fates", "failure"),
    [
        ([errno.ENETUNREACH, errno.ECONNREFUSED], Failure.ECONNREFUSED),
        ([errno.ECONNREFUSED, errno.ENETUNREACH], Failure.ECONNREFUSED),
        ([errno.EHOSTUNREACH, errno.ECONNREFUSED], Failure.ECONNREFUSED),
        ([errno.EHOSTUNREACH, errno.ENETUNREACH], Failure.EHOSTUNREACH),
        ([errno.ENETUNREACH, errno.ETIMEDOUT], Failure.ETIMEDOUT),
        ([errno.EACCES, errno.EHOSTUNREACH], Failure.POLICY),
        ([errno.ENETUNREACH, errno.ENETUNREACH], Failure.ENETUNREACH),
        ([errno.ECONNREFUSED, 9.0], Failure.ECONNREFUSED),
        ([errno.ENETUNREACH, 9.0], Failure.ETIMEDOUT),
        ([9.0, 9.0], Failure.ETIMEDOUT),
    ],
)
def test_most_telling_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, fates: list[Any], failure: Failure
) -> None:
    async def dialogue() -> None:
        addresses = ["2001:db8::1", "192.0.2.1"]
        world = World({"h": addresses}, dict(zip(addresses, fates, strict=True)), timeout_s=0.4)
        await played(monkeypatch, world)
        assert await failure_of(world, "h", 80) is failure
        world.close()

    asyncio.run(dialogue())


@given(st.lists(st.sampled_from(Failure), min_size=1))
def test_most_telling_is_one_of_them(failures: list[Failure]) -> None:
    assert most_telling(map(OpenFailed, failures)).failure in failures


def test_given_up_leaves_no_socket(run: Callable) -> None:
    async def dialogue() -> None:
        dialer = Dialer()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            fillers = []
            for _ in range(4):  # then its queue takes no more, and SYNs are dropped
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
                fillers.append(filler)
            connecting = asyncio.create_task(dialer.connect(*full.getsockname()))
            await asyncio.sleep(0.05)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            for filler in fillers:
                filler.close()
        dialer.close()

    run(dialogue())


def test_no_file_descriptors_left_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dialogue() -> None:
        world = World({"h": ["192.0.2.1"]}, {})

        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(errno.EMFILE, "played")

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", refuse)
            assert await failure_of(world, "h", 80) is Failure.UNAVAILABLE
        world.close()

    asyncio.run(dialogue())


ROUTED, UNROUTED = "::1", "fe80::1"
"""Without a zone there is no way to the second (RFC 4007 §11)."""


@pytest.mark.parametrize(
    ("addresses", "is_told"),
    [([ROUTED], True), ([UNROUTED, ROUTED], True), ([UNROUTED], False)],
)
def test_ipv6_without_a_route_is_not_told(
    run: Callable, addresses: list[str], is_told: bool
) -> None:
    async def dialogue() -> None:
        world = World({"six.example": addresses}, {})
        if is_told:
            found = await world.resolve_routed("six.example", 0, V6)
            assert [address for _, (address, _) in found] == addresses
        else:
            with pytest.raises(socket.gaierror):
                await world.resolve_routed("six.example", 0, V6)
        world.close()

    run(dialogue())


def test_ipv4_and_both_together_are_told_as_they_are(run: Callable) -> None:
    async def dialogue() -> None:
        world = World({"x.example": [UNROUTED]}, {})
        for family in (V4, socket.AF_UNSPEC):
            assert await world.resolve_routed("x.example", 0, family)
        world.close()

    run(dialogue())
