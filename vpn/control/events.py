"""The events of a tunnel, and a bounded queue of them for each subscriber.

A subscriber that does not read in time loses the oldest events and is told how many; whoever
publishes never waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from vpn.control.messages import Event, Missed, StateChanged

MAX_QUEUED: Final = 64


class Subscription:
    """The events of one subscriber, in order."""

    def __init__(self, most: int = MAX_QUEUED) -> None:
        self._queue: deque[Event] = deque()
        self._most = most
        self._missed = 0
        self._is_closed = False
        self._changed = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add an event; the oldest one makes room for it."""
        if len(self._queue) == self._most:
            self._queue.popleft()
            self._missed += 1
        self._queue.append(event)
        self._changed.set()

    def close(self) -> None:
        """End the subscription after the events that are queued."""
        self._is_closed = True
        self._changed.set()

    async def next(self) -> Event | None:
        """Return the next event, or how many were missed before it; None after the last one."""
        while not self._queue and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        if self._missed:
            missed, self._missed = Missed(self._missed), 0
            return missed
        return self._queue.popleft() if self._queue else None


class Events:
    """The events of one tunnel."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._state: StateChanged | None = None
        self._is_closed = False

    def publish(self, event: Event) -> None:
        """Tell every subscriber. A state that is not new is no event."""
        if isinstance(event, StateChanged):
            if event == self._state:
                return
            self._state = event
        for each in self._subscriptions:
            each.put(event)

    def subscribe(self) -> Subscription:
        """Return a subscription, which begins with the state of the moment."""
        made = Subscription()
        if self._state is not None:
            made.put(self._state)
        if self._is_closed:
            made.close()
        self._subscriptions.add(made)
        return made

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription after the events that are queued."""
        self._is_closed = True
        for each in self._subscriptions:
            each.close()
