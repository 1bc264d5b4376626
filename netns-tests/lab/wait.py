"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Return the first true value of `condition`. Raises TimeoutError that names `what`.

    The condition is asked once more after the deadline: on a busy machine the waiting
    itself may have been late.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        is_late = time.monotonic() >= deadline_s
        if value := condition():
            return value
        if is_late:
            raise TimeoutError(f"after {timeout_s} s still waiting for {what}")
        time.sleep(0.005)
