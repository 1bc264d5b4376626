"""The resolvers of this machine, which are played on the loopback: whom, how often, how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dns_lab import Behaviour, DnsServer, Servers, address, answer, failing, good, long, silent

from dns import upstream
from dns.codes import RCode
from vpn.server.services import system_resolvers as module
from vpn.server.services.system_resolvers import SystemResolvers

TXT = 16
NAME = (b"app", b"example")


def refusing(query: bytes, over_tcp: bool) -> list[bytes]:
    return [answer(query, RCode.REFUSED)]


@asynccontextmanager
async def world(
    tmp_path: Path, *behaviours: Behaviour, options: str
) -> AsyncIterator[tuple[SystemResolvers, list[DnsServer]]]:
    """Resolvers, in the order of resolv.conf, and who asks them."""
    async with Servers(*behaviours) as servers:
        path = tmp_path / "resolv.conf"
        lines = [f"options {options}", *(f"nameserver {one}" for one in servers.addresses)]
        path.write_text("\n".join(lines))
        yield SystemResolvers(path, servers.port), servers.servers


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
    run: Callable, tmp_path: Path, behaviours: tuple[Behaviour, ...], rcode: RCode | None
) -> None:
    async def dialogue() -> None:
        options = "timeout:1 attempts:1"
        async with world(tmp_path, *behaviours, options=options) as (resolvers, _):
            found = await resolvers.ask(NAME, TXT)
            assert found == (None if rcode is None else answer(query(), rcode))

    run(dialogue())


def query() -> bytes:
    return upstream.build_query(0, "app.example", TXT)


def test_each_question_has_an_identifier_of_its_own(run: Callable, tmp_path: Path) -> None:
    async def dialogue() -> None:
        async with world(tmp_path, good, options="timeout:1") as (resolvers, (server,)):
            await asyncio.gather(*(resolvers.ask(NAME, TXT) for _ in range(50)))
            assert len({query[:2] for query in server.queries}) > 40
            assert {query[2:] for query in server.queries} == {query()[2:]}

    run(dialogue())


def test_as_many_attempts_as_the_file_says(run: Callable, tmp_path: Path) -> None:
    async def dialogue() -> None:
        options = "attempts:3"
        async with world(tmp_path, failing, refusing, options=options) as (resolvers, servers):
            await resolvers.ask(NAME, TXT)
            assert [len(one.asked) for one in servers] == [3, 3]

    run(dialogue())


def test_file_that_changes_is_read_again(run: Callable, tmp_path: Path) -> None:
    async def dialogue() -> None:
        async with world(tmp_path, failing, good, options="timeout:1") as (resolvers, (one, _)):
            (tmp_path / "resolv.conf").write_text(f"nameserver {address(2)}\nsearch a.example")
            assert await resolvers.ask(NAME, TXT) == answer(query())
            assert one.asked == []
            assert resolvers.settings().search == ("a.example",)

    run(dialogue())


def test_without_a_file_this_machine_is_asked(tmp_path: Path) -> None:
    assert SystemResolvers(tmp_path / "missing").settings().servers == ("127.0.0.1",)


def test_time_for_all_resolvers_together_is_bounded(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one of them has said until then is the answer."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)

    async def dialogue() -> None:
        options = "timeout:30 attempts:5"
        async with world(tmp_path, failing, silent, silent, options=options) as (asker, servers):
            async with asyncio.timeout(10):
                assert await asker.ask(NAME, TXT) == answer(query(), RCode.SERVFAIL)
            assert [len(one.asked) for one in servers] == [1, 1, 0]

    run(dialogue())


def test_questions_at_once_are_bounded(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 8)

    async def dialogue() -> None:
        async with world(tmp_path, silent, options="timeout:30") as (resolvers, (server,)):
            asking = [asyncio.create_task(resolvers.ask(NAME, TXT)) for _ in range(50)]
            await server.until_asked(8)
            await asyncio.sleep(0.05)
            assert len(server.asked) == 8
            for each in asking:
                each.cancel()
            await asyncio.wait(asking)

    run(dialogue())
