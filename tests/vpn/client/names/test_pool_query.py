"""Questions about the gate's pool: answered in their order or another, or not at all."""

from __future__ import annotations

import asyncio

import pytest

from shim.protocol.gate import PoolState, PoolWanted
from shim.protocol.link import Message
from vpn.client.names import pool_query
from vpn.client.names.pool_query import PoolQuestions


def state(query: int, name: str) -> PoolState:
    return PoolState(query, 8, 1, 0, name, (), False)


def test_answers_find_their_questions_in_any_order() -> None:
    async def dialogue() -> None:
        sent: list[Message] = []
        questions = PoolQuestions(sent.append)
        asking = [asyncio.create_task(questions.ask(name)) for name in ("a.b", "c.d")]
        await asyncio.sleep(0)
        one, two = sent
        assert isinstance(one, PoolWanted)
        assert isinstance(two, PoolWanted)
        questions.on_state(state(99, "stranger"))
        questions.on_state(state(two.query, two.host))
        questions.on_state(state(two.query, "again"))
        questions.on_state(state(one.query, one.host))
        answers = await asyncio.gather(*asking)
        assert [one and one.name for one in answers] == ["a.b", "c.d"]

    asyncio.run(dialogue())


def test_gate_that_is_gone_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_query, "TIMEOUT_S", 0.01)

    async def dialogue() -> None:
        questions = PoolQuestions(lambda _: None)
        assert await questions.ask() is None
        questions.on_state(state(1, "late"))

    asyncio.run(dialogue())
