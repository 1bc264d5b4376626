"""Tests that are dialogues: coroutines, each with a bench and an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import wraps
from inspect import Parameter, signature
from typing import Any

TIMEOUT_S = 10

Test = Callable[..., Coroutine[Any, Any, None]]
Run = Callable[[Coroutine[Any, Any, None]], object]


def dialogue(
    bench: Callable[[], AbstractAsyncContextManager[Any]], run: str = ""
) -> Callable[[Test], Callable[..., None]]:
    """Make a test of a coroutine, whose first argument is what `bench` gives, a new one each time.

    `run` names the fixture that runs it, where that is not `asyncio.run`.
    """

    def decorate(test: Test) -> Callable[..., None]:
        async def act(arguments: dict[str, Any]) -> None:
            async with bench() as made:
                await asyncio.wait_for(test(made, **arguments), TIMEOUT_S)

        @wraps(test)
        def play(**arguments: Any) -> None:
            runner: Run = arguments.pop(run) if run else asyncio.run
            runner(act(arguments))

        _, *parameters = signature(test).parameters.values()
        parameters += [Parameter(run, Parameter.KEYWORD_ONLY)] if run else []
        play.__signature__ = signature(test).replace(parameters=parameters)  # type: ignore[attr-defined]
        return play

    return decorate


async def until(is_true: Callable[[], object]) -> None:
    """Wait for a condition that nobody announces."""
    async with asyncio.timeout(TIMEOUT_S):
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
