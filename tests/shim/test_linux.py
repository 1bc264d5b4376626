"""What a process of the shim does to itself."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable

import pytest

from shim import linux


def in_a_child(work: Callable[[], object]) -> int:
    """Return 0 if a child has done this without an exception."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_only_what_is_kept_stays_open() -> None:
    read, write = os.pipe()

    def work() -> None:
        linux.close_all_but({0, 1, 2, write})
        os.fstat(write)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(read)

    assert in_a_child(work) == 0
    os.close(read)
    os.close(write)


def test_nothing_that_was_closed_behind_its_back_closes_what_came_after() -> None:
    """A socket in a cycle of references ends whenever the collector comes by."""

    def work() -> None:
        gc.disable()
        cycle: list[object] = [one := socket.socket()]
        cycle.append(cycle)
        number = one.fileno()
        del cycle, one
        linux.close_all_but({0, 1, 2})
        while os.open("/dev/null", os.O_RDONLY) < number:
            pass
        gc.collect()
        os.fstat(number)

    assert in_a_child(work) == 0
