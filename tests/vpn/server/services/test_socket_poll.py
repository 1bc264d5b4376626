"""One poll for many sockets, on each event loop."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

from vpn.server.services.socket_poll import SocketPoll


def test_events_of_a_descriptor_are_reported_until_it_is_removed(run: Callable) -> None:
    async def dialogue() -> None:
        poll, seen = SocketPoll(), list[str]()
        first, second = os.eventfd(0), os.eventfd(0)

        def report(name: str, fd: int) -> Callable[[int], None]:
            def on_ready(events: int) -> None:
                assert events == select.EPOLLIN
                os.eventfd_read(fd)
                seen.append(name)

            return on_ready

        async def signal(fd: int) -> None:
            os.eventfd_write(fd, 1)
            await asyncio.sleep(0.02)

        poll.add(first, report("first", first))
        poll.add(second, report("second", second))
        await signal(second)
        await signal(first)
        assert seen == ["second", "first"]
        poll.modify(first, is_read=False)
        await signal(first)
        assert seen == ["second", "first"]
        poll.modify(first, is_read=True)
        await asyncio.sleep(0.02)
        assert seen == ["second", "first", "first"]
        poll.remove(first)
        await signal(first)
        assert seen == ["second", "first", "first"]
        poll.close()
        poll.close()
        await signal(second)
        assert len(seen) == 3
        os.close(first)
        os.close(second)

    run(dialogue())
