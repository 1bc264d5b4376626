"""Questions over a channel, answered by a resolver that the test plays."""

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dialogues import dialogue
from ssh_lab import Keys, session_of
from transport_lab import Recorder, until

from dns import framing, search, upstream
from dns.codes import RCode
from dns.names import to_text, to_wire
from dns.records import Record
from dns.resolv_conf import ResolvConf, parse
from dns.upstream import Outcome
from vpn.protocol.services import RESOLVER, SEARCH
from vpn.server.services import resolver as module
from vpn.server.services.resolver import MAX_PENDING, ResolverProtocol
from vpn.transport.base import HIGH_WATER
from vpn.transport.memory import memory_pair

V4, V6, ANY = socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC
LONG = ".".join(["x" * 60] * 4)
A, AAAA, MX, TXT, AXFR = 1, 28, 15, 16, 252


class Names:
    """A getaddrinfo(3) that knows a few names, and says what glibc says."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def __call__(self, host: str, port: int, family: Any) -> Any:
        self.asked += 1
        await self.gate.wait()
        known = {LONG: [V4], "both.example": [V4, V6], "four.example": [V4], "nodata.example": []}
        if host == "broken.example":
            raise socket.gaierror(socket.EAI_AGAIN, "again")
        if host == "exhausted.example":
            raise OSError(errno.EMFILE, "no descriptor is left")
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        found = [each for each in known[host] if family in (ANY, each)]
        if not found:
            number = socket.EAI_NONAME if host == "four.example" else socket.EAI_NODATA
            raise socket.gaierror(number, "none of them")
        text = {V4: "192.0.2.1", V6: "2001:db8::1"}
        return [(each, (text[each], port)) for each in found]


class Others:
    """The resolvers of a machine: some names have a mail server, the others do not exist."""

    def settings(self) -> ResolvConf:
        return parse("search corp.example com\n")

    async def ask(self, labels: tuple[bytes, ...], rtype: int) -> bytes | None:
        name = to_text(labels)
        if name == "silent.example":
            return None
        if name not in ("both.example", "mail.example"):
            return upstream.write_answer(upstream.Answer(Outcome.NX_DOMAIN), name, rtype)
        record = Record(to_wire(labels), rtype, 1, 60, b"\0\x0a\0")
        return upstream.write_answer(upstream.Answer(Outcome.FOUND, 60, (record,)), name, rtype)


class Asked:
    """A resolver at one end, and a client of it at the other."""

    def __init__(self) -> None:
        self.names = Names()
        self.asker = Recorder()
        self.resolver = ResolverProtocol(self.names, Others())
        self._framing = framing.Framing()
        self._answers: list[bytes] = []
        memory_pair(self.resolver, self.asker)

    def send(self, *messages: bytes) -> None:
        self.asker.transport.write(b"".join(map(framing.frame, messages)))

    async def answers(self, count: int) -> list[bytes]:
        """All answers as yet, once there are so many."""
        await self.asker.until(lambda _: self._take() >= count)
        return self._answers

    def _take(self) -> int:
        self._answers += self._framing.feed(bytes(self.asker.received))
        self.asker.received.clear()
        return len(self._answers)


@asynccontextmanager
async def resolver() -> AsyncIterator[Asked]:
    asked = Asked()
    await asked.asker.until_fact("made")
    yield asked
    asked.asker.transport.abort()


async def ask(asked: Asked, name: str, rtype: int) -> Outcome:
    asked.send(upstream.build_query(7, name, rtype))
    (answer,) = await asked.answers(1)
    return upstream.read_answer(answer, 7, name, rtype).outcome


@pytest.mark.parametrize(
    ("name", "rtype", "outcome"),
    [
        ("both.example", A, Outcome.FOUND),
        ("both.example", AAAA, Outcome.FOUND),
        ("four.example", A, Outcome.FOUND),
        ("four.example", AAAA, Outcome.NO_DATA),
        ("nodata.example", A, Outcome.NO_DATA),
        ("none.example", A, Outcome.NX_DOMAIN),
        ("none.example", AAAA, Outcome.NX_DOMAIN),
        ("broken.example", A, Outcome.FAILED),
        ("exhausted.example", A, Outcome.FAILED),
        ("both.example", MX, Outcome.FOUND),
        ("mail.example", MX, Outcome.FOUND),
        ("none.example", MX, Outcome.NX_DOMAIN),
        ("four.example", MX, Outcome.NO_DATA),
        ("silent.example", MX, Outcome.FAILED),
        ("both.example", AXFR, Outcome.UNSUPPORTED),
        ("search.overlay-vpn.internal", TXT, Outcome.FOUND),
        ("search.overlay-vpn.internal", A, Outcome.NO_DATA),
        ("x.overlay-vpn.internal", MX, Outcome.NX_DOMAIN),
    ],
)
@dialogue(resolver, run="run")
async def test_existence(asked: Asked, name: str, rtype: int, outcome: Outcome) -> None:
    assert await ask(asked, name, rtype) is outcome


@dialogue(resolver, run="run")
async def test_search_domains_are_told_without_those_that_are_none(asked: Asked) -> None:
    asked.send(upstream.build_query(7, SEARCH, TXT))
    (answer,) = await asked.answers(1)
    records = upstream.read_answer(answer, 7, SEARCH, TXT).records
    assert search.read(record.data for record in records) == ("corp.example",)


@dialogue(resolver, run="run")
async def test_address_is_the_real_one(asked: Asked) -> None:
    asked.send(upstream.build_query(7, "both.example", A))
    (answer,) = await asked.answers(1)
    assert answer.endswith(socket.inet_aton("192.0.2.1"))


@dialogue(resolver, run="run")
async def test_many_questions_one_byte_at_a_time(asked: Asked) -> None:
    query = framing.frame(upstream.build_query(7, "both.example", A))
    for byte in query * 3:
        asked.asker.transport.write(bytes([byte]))
    assert len(await asked.answers(3)) == 3


@dialogue(resolver, run="run")
async def test_too_many_questions_wait(asked: Asked) -> None:
    asked.names.gate.clear()
    query = upstream.build_query(7, "both.example", A)
    for _ in range(MAX_PENDING * 2):
        asked.send(query)
    await until(lambda: asked.names.asked >= MAX_PENDING)
    await asyncio.sleep(0.05)
    assert asked.names.asked == MAX_PENDING
    asked.names.gate.set()
    assert len(await asked.answers(MAX_PENDING * 2)) == MAX_PENDING * 2


@dialogue(resolver, run="run")
async def test_questions_that_take_their_time_make_room_for_others(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    asked.names.gate.clear()
    silent = [upstream.build_query(n, "both.example", A) for n in range(MAX_PENDING * 2)]
    asked.send(*silent, upstream.build_query(9999, "both.example", MX))
    told: dict[int, int] = {}
    while 9999 not in told:
        answers = await asked.answers(len(told) + 1)
        told = {int.from_bytes(one[:2]): one[3] & 0xF for one in answers}
    assert told.pop(9999) == RCode.NOERROR
    assert set(told.values()) == {RCode.SERVFAIL}
    assert len(told) >= MAX_PENDING
    asked.names.gate.set()
    assert len(await asked.answers(MAX_PENDING * 2 + 1)) == MAX_PENDING * 2 + 1


@dialogue(resolver, run="run")
async def test_asker_who_does_not_read_is_not_worked_for(asked: Asked) -> None:
    query = upstream.build_query(7, LONG, A)
    many = 2 * HIGH_WATER // len(query)
    asked.asker.transport.pause_reading()
    asked.send(*[query] * many)
    asked.asker.transport.write_eof()
    await until(lambda: asked.names.asked > MAX_PENDING)
    begun = -1
    while asked.names.asked > begun:
        begun = asked.names.asked
        for _ in range(500):
            await asyncio.sleep(0)
    assert begun < many
    asked.asker.transport.resume_reading()
    assert len(await asked.answers(many)) == many
    await asked.asker.until_fact("eof")


@dialogue(resolver, run="run")
async def test_end_is_answered_after_the_last_question(asked: Asked) -> None:
    asked.names.gate.clear()
    asked.send(upstream.build_query(7, "both.example", A))
    asked.asker.transport.write_eof()
    await asyncio.sleep(0.02)
    asked.names.gate.set()
    await asked.asker.until_fact("eof")
    assert len(await asked.answers(1)) == 1


@dialogue(resolver, run="run")
async def test_gone_while_working_stops_the_work(asked: Asked) -> None:
    asked.names.gate.clear()
    asked.send(upstream.build_query(7, "both.example", A))
    await until(lambda: bool(asked.resolver._pending))
    asked.asker.transport.abort()
    await until(lambda: not asked.resolver._pending)


@pytest.mark.parametrize(
    ("message", "rcode"),
    [
        (struct.pack("!6H", 7, 0x0100, 0, 0, 0, 0), 1),
        (struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c", 1),
        (struct.pack("!6H", 7, 0x2900, 0, 0, 0, 0), 4),
    ],
)
@dialogue(resolver, run="run")
async def test_malformed_is_answered(asked: Asked, message: bytes, rcode: int) -> None:
    asked.send(message)
    (answer,) = await asked.answers(1)
    assert answer[3] & 0xF == rcode


@dialogue(resolver, run="run")
async def test_oversized_is_cut_off(asked: Asked) -> None:
    asked.asker.transport.write(b"\xff\xff")
    await asked.asker.until_fact("lost")
    assert isinstance(asked.asker.error, ConnectionResetError)


def test_through_a_session_it_knows_what_this_machine_knows(run: Callable, keys: Keys) -> None:
    async def dialogue() -> None:
        async with session_of(keys) as session:
            reader, writer = await session.open_stream(*RESOLVER)
            for name, outcome in (
                ("localhost", Outcome.FOUND),
                ("nowhere.invalid", Outcome.NX_DOMAIN),
            ):
                writer.write(framing.frame(upstream.build_query(9, name, A)))
                size = int.from_bytes(await reader.readexactly(2))
                answer = await reader.readexactly(size)
                assert upstream.read_answer(answer, 9, name, A).outcome is outcome
            writer.close()
            await writer.wait_closed()

    run(dialogue())
