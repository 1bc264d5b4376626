"""When a gate that died is followed by another, and when that is enough."""

from __future__ import annotations

import os
import signal

import prctl

from shim.gate.keeper import EARLY_S, MAX_EARLY_DEATHS, PROFILE, Restarts
from shim.sandbox import filters, seccomp


def test_gates_that_lived_a_while_are_followed_by_another_for_ever() -> None:
    restarts = Restarts()
    assert all(restarts.may_restart(EARLY_S) for _ in range(1000))


def test_last_of_too_many_early_deaths_in_a_row_is_the_end() -> None:
    restarts = Restarts()
    said = [restarts.may_restart(0.0) for _ in range(MAX_EARLY_DEATHS)]
    assert said == [True] * (MAX_EARLY_DEATHS - 1) + [False]


def test_one_that_lived_a_while_starts_the_count_anew() -> None:
    restarts = Restarts()
    for _ in range(3):
        assert all(restarts.may_restart(0.0) for _ in range(MAX_EARLY_DEATHS - 1))
        assert restarts.may_restart(EARLY_S)


def test_filter_lets_libc_block_signals_around_a_fork() -> None:
    """As glibc does from 2.41; the one here may be older."""
    keeper = os.fork()
    if keeper == 0:
        prctl.set_no_new_privs(1)
        filters.install(seccomp.assemble(PROFILE.syscalls))
        signal.pthread_sigmask(signal.SIG_BLOCK, ())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1]) == 0
