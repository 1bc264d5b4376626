"""When a gate that died is followed by another, and when that is enough."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import prctl
import pytest

from shim.gate.process.supervisor import EARLY_S, MAX_EARLY_DEATHS, PROFILE, Restarts, pool_key
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


def test_key_of_the_pool_is_the_machine_s_and_does_not_give_its_id_away(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("0123456789abcdef0123456789abcdef\n")
    other.write_text("0123456789abcdef0123456789abcdee\n")
    assert pool_key(str(one)) == pool_key(str(one))
    assert pool_key(str(one)) != pool_key(str(other))
    assert b"0123" not in pool_key(str(one))


@pytest.mark.parametrize("text", [None, "", "uninitialized\n"])
def test_without_the_machine_s_id_the_key_is_a_new_one(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "machine-id"
    if text is not None:
        path.write_text(text)
    assert len({pool_key(str(path)) for _ in range(3)}) == 3


def test_filter_lets_libc_block_signals_around_a_fork() -> None:
    """As glibc does from 2.41; the one here may be older."""
    supervisor = os.fork()
    if supervisor == 0:
        try:
            prctl.set_no_new_privs(1)
            filters.install(seccomp.assemble(PROFILE.syscalls))
            signal.pthread_sigmask(signal.SIG_BLOCK, ())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(supervisor, 0)[1]) == 0
