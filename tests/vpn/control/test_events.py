"""Each subscriber has the events in their order; nobody waits for one that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from vpn.control.events import MAX_QUEUED, Events
from vpn.control.messages import Missed, StateChanged, Warned


def play(dialogue: Callable[[Events], Awaitable[None]]) -> None:
    async def act() -> None:
        await asyncio.wait_for(dialogue(Events()), 10)

    asyncio.run(act())


def test_subscription_begins_with_the_state_of_the_moment() -> None:
    async def dialogue(events: Events) -> None:
        events.publish(StateChanged("connecting"))
        events.publish(StateChanged("connected"))
        events.publish(Warned("before"))
        subscription = events.subscribe()
        assert await subscription.next() == StateChanged("connected")
        events.publish(Warned("after"))
        assert await subscription.next() == Warned("after")

    play(dialogue)


def test_same_state_again_is_no_event_and_another_reason_is() -> None:
    async def dialogue(events: Events) -> None:
        subscription = events.subscribe()
        states = [StateChanged("reconnecting", why) for why in ("silent", "silent", "refused")]
        for state in states:
            events.publish(state)
        events.publish(Warned("twice"))
        events.publish(Warned("twice"))
        said = [await subscription.next() for _ in range(4)]
        assert said == [states[0], states[2], Warned("twice"), Warned("twice")]

    play(dialogue)


def test_subscriber_that_waits_is_woken_and_others_are_not_its_business() -> None:
    async def dialogue(events: Events) -> None:
        one, other = events.subscribe(), events.subscribe()
        waiting = asyncio.create_task(one.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        events.publish(Warned("now"))
        assert await waiting == Warned("now")
        events.unsubscribe(other)
        events.publish(Warned("later"))
        other.close()
        assert [await other.next(), await other.next()] == [Warned("now"), None]

    play(dialogue)


def test_oldest_events_make_room_and_are_counted() -> None:
    async def dialogue(events: Events) -> None:
        subscription = events.subscribe()
        for number in range(MAX_QUEUED + 3):
            events.publish(Warned(str(number)))
        assert await subscription.next() == Missed(3)
        said = [await subscription.next() for _ in range(MAX_QUEUED)]
        assert said == [Warned(str(number)) for number in range(3, MAX_QUEUED + 3)]
        events.publish(Warned("next"))
        assert await subscription.next() == Warned("next")

    play(dialogue)


def test_end_comes_after_what_is_queued() -> None:
    async def dialogue(events: Events) -> None:
        subscription = events.subscribe()
        events.publish(Warned("last"))
        events.close()
        assert await subscription.next() == Warned("last")
        assert await subscription.next() is None
        assert await events.subscribe().next() is None

    play(dialogue)


def test_end_wakes_a_subscriber_that_waits() -> None:
    async def dialogue(events: Events) -> None:
        waiting = asyncio.create_task(events.subscribe().next())
        await asyncio.sleep(0)
        events.close()
        assert await waiting is None

    play(dialogue)
