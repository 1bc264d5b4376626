"""Each subscriber has the events in their order; nobody waits for one that does not read."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from dialogues import dialogue

from vpn.control.events import MAX_QUEUED, Events
from vpn.control.messages import Missed, StateChanged, Warned


class Bench(AbstractAsyncContextManager):
    def __init__(self) -> None:
        self.events = Events()

    async def __aexit__(self, *_: object) -> None: ...


played = dialogue(Bench)


@played
async def test_subscription_begins_with_the_state_of_the_moment(bench: Bench) -> None:
    bench.events.publish(StateChanged("connecting"))
    bench.events.publish(StateChanged("connected"))
    bench.events.publish(Warned("before"))
    subscription = bench.events.subscribe()
    assert await subscription.next() == StateChanged("connected")
    bench.events.publish(Warned("after"))
    assert await subscription.next() == Warned("after")


@played
async def test_same_state_again_is_no_event_and_another_reason_is(bench: Bench) -> None:
    subscription = bench.events.subscribe()
    states = [StateChanged("reconnecting", why) for why in ("silent", "silent", "refused")]
    for state in states:
        bench.events.publish(state)
    bench.events.publish(Warned("twice"))
    bench.events.publish(Warned("twice"))
    said = [await subscription.next() for _ in range(4)]
    assert said == [states[0], states[2], Warned("twice"), Warned("twice")]


@played
async def test_subscriber_that_waits_is_woken_and_others_are_not_its_business(bench: Bench) -> None:
    one, other = bench.events.subscribe(), bench.events.subscribe()
    waiting = asyncio.create_task(one.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    bench.events.publish(Warned("now"))
    assert await waiting == Warned("now")
    bench.events.unsubscribe(other)
    bench.events.publish(Warned("later"))
    other.close()
    assert [await other.next(), await other.next()] == [Warned("now"), None]


@played
async def test_subscriber_that_has_read_everything_waits_again(bench: Bench) -> None:
    subscription = bench.events.subscribe()
    for text in ("one", "two"):
        waiting = asyncio.create_task(subscription.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        bench.events.publish(Warned(text))
        assert await waiting == Warned(text)


@played
async def test_oldest_events_make_room_and_are_counted(bench: Bench) -> None:
    subscription = bench.events.subscribe()
    for number in range(MAX_QUEUED + 3):
        bench.events.publish(Warned(str(number)))
    assert await subscription.next() == Missed(3)
    said = [await subscription.next() for _ in range(MAX_QUEUED)]
    assert said == [Warned(str(number)) for number in range(3, MAX_QUEUED + 3)]
    bench.events.publish(Warned("next"))
    assert await subscription.next() == Warned("next")


@played
async def test_end_comes_after_what_is_queued(bench: Bench) -> None:
    subscription = bench.events.subscribe()
    bench.events.publish(Warned("last"))
    bench.events.close()
    assert await subscription.next() == Warned("last")
    assert await subscription.next() is None
    assert await bench.events.subscribe().next() is None


@played
async def test_end_wakes_a_subscriber_that_waits(bench: Bench) -> None:
    waiting = asyncio.create_task(bench.events.subscribe().next())
    await asyncio.sleep(0)
    bench.events.close()
    assert await waiting is None
