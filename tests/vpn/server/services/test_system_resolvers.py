"""The resolvers of this machine, which are played on the loopback: whom, how often, how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from dialogues import dialogue
from dns_lab import Behaviour, Servers, answer, failing, good, long, silent

from dns import upstream
from dns.codes import RCode
from vpn.server.services import system_resolvers as module
from vpn.server.services.system_resolvers import SystemResolvers

TXT = 16
NAME = (b"app", b"example")
QUERY = upstream.build_query(0, "app.example", TXT)


def refusing(query: bytes, over_tcp: bool) -> list[bytes]:
    return [answer(query, RCode.REFUSED)]


class World:
    """Resolvers, in the order of the resolv.conf of this machine, and who asks them."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self._servers = Servers(*behaviours)
        self.servers = self._servers.servers
        self._directory = TemporaryDirectory()
        self.resolvers = SystemResolvers(Path(self._directory.name) / "conf", self._servers.port)

    async def __aenter__(self) -> World:
        await self._servers.__aenter__()
        self.write("timeout:1 attempts:1")
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._servers.__aexit__(*raised)
        self._directory.cleanup()

    def write(self, options: str, *more: str, skip: int = 0) -> None:
        """Write the file, without the first so many servers."""
        servers = [f"nameserver {one}" for one in self._servers.addresses[skip:]]
        path = Path(self._directory.name) / "conf"
        path.write_text("\n".join([f"options {options}", *servers, *more]))

    async def ask(self) -> bytes | None:
        return await self.resolvers.ask(NAME, TXT)

    @property
    def asked(self) -> list[int]:
        """How often each was asked."""
        return [len(one.asked) for one in self.servers]


@pytest.mark.parametrize(
    ("behaviours", "rcode"),
    [
        ((good,), RCode.NOERROR),
        ((long,), RCode.NOERROR),
        ((failing, good), RCode.NOERROR),
        ((silent, good), RCode.NOERROR),
        ((failing, refusing), RCode.REFUSED),
        ((failing, silent), RCode.SERVFAIL),
        ((silent,), None),
    ],
)
def test_resolvers_asked_in_turn(
    run: Callable, behaviours: tuple[Behaviour, ...], rcode: RCode | None
) -> None:
    async def asking() -> bytes | None:
        async with World(*behaviours) as world:
            return await world.ask()

    assert run(asking()) == (None if rcode is None else answer(QUERY, rcode))


@dialogue(lambda: World(good), run="run")
async def test_each_question_has_an_identifier_of_its_own(world: World) -> None:
    await asyncio.gather(*(world.ask() for _ in range(50)))
    queries = world.servers[0].queries
    assert len({query[:2] for query in queries}) > 40
    assert {query[2:] for query in queries} == {QUERY[2:]}


@dialogue(lambda: World(failing, refusing), run="run")
async def test_as_many_attempts_as_the_file_says(world: World) -> None:
    world.write("attempts:3")
    await world.ask()
    assert world.asked == [3, 3]


@dialogue(lambda: World(failing, good), run="run")
async def test_file_that_changes_is_read_again(world: World) -> None:
    world.write("attempts:1", "search a.example", skip=1)
    assert await world.ask() == answer(QUERY)
    assert world.asked == [0, 1]
    assert world.resolvers.settings().search == ("a.example",)


def test_without_a_file_this_machine_is_asked(tmp_path: Path) -> None:
    assert SystemResolvers(tmp_path / "missing").settings().servers == ("127.0.0.1",)


@dialogue(lambda: World(failing, silent, silent), run="run")
async def test_time_for_all_resolvers_together_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one of them has answered until then is the answer."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    world.write("timeout:30 attempts:5")
    assert await world.ask() == answer(QUERY, RCode.SERVFAIL)
    assert world.asked == [1, 1, 0]


def bounded() -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_AT_ONCE", 8)
        return World(silent)


@dialogue(bounded, run="run")
async def test_questions_at_once_are_bounded(world: World) -> None:
    world.write("timeout:30")
    asking = [asyncio.create_task(world.ask()) for _ in range(50)]
    await world.servers[0].until_asked(8)
    await asyncio.sleep(0.05)
    assert world.asked == [8]
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
