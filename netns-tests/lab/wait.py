"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Return the first true value of `condition`. Raises TimeoutError that names `what`.

    The condition is asked once more after the deadline: on a busy machine the waiting
    itself may have been late. One that takes long is asked less often: what it looks at needs the
    machine, too.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        asked_s = time.monotonic()
        is_late = asked_s >= deadline_s
        if value := condition():
            return value
        if is_late:
            raise TimeoutError(f"after {timeout_s} s still waiting for {what}")
        time.sleep(max(0.005, time.monotonic() - asked_s))
