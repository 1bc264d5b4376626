from hypothesis import given
from hypothesis import strategies as st

from vpn.ssh.session.window import (
    BUDGET_BYTES,
    CEILING_BYTES,
    FLOOR_BYTES,
    INITIAL_BYTES,
    ReceiveWindow,
    WindowBudget,
)


def consume(window: ReceiveWindow, count: int) -> int:
    assert window.on_data(count)
    return window.on_consumed(count)


def test_new_window_is_small() -> None:
    assert ReceiveWindow(WindowBudget()).size == INITIAL_BYTES


def test_half_consumed_without_waiting_doubles() -> None:
    window = ReceiveWindow(WindowBudget())
    assert consume(window, INITIAL_BYTES // 2 - 1) == 0
    assert consume(window, 1) == INITIAL_BYTES // 2 + INITIAL_BYTES
    assert window.size == window.credit == 2 * INITIAL_BYTES


def test_half_consumed_by_a_reader_that_paused_stays() -> None:
    window = ReceiveWindow(WindowBudget())
    window.on_wait()
    assert consume(window, INITIAL_BYTES // 2) == INITIAL_BYTES // 2
    assert window.size == INITIAL_BYTES


def test_window_grows_to_the_ceiling_and_no_further() -> None:
    window = ReceiveWindow(WindowBudget())
    for _ in range(10):
        consume(window, window.size // 2)
    assert window.size == CEILING_BYTES


def test_more_data_than_promised_is_an_offence() -> None:
    window = ReceiveWindow(WindowBudget())
    assert window.on_data(INITIAL_BYTES)
    assert not window.on_data(1)


def test_hundred_greedy_flows_keep_to_the_budget() -> None:
    budget = WindowBudget()
    windows = [ReceiveWindow(budget) for _ in range(100)]
    for _ in range(10):
        for window in windows:
            consume(window, window.size // 2)
    assert sum(window.size for window in windows) <= BUDGET_BYTES
    assert min(window.size for window in windows) >= INITIAL_BYTES // 2


def test_closed_windows_are_given_back() -> None:
    budget = WindowBudget()
    for window in [ReceiveWindow(budget) for _ in range(5000)]:
        window.close()
    assert budget.left_bytes == BUDGET_BYTES


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1 << 20), st.booleans())))
def test_promises_are_bounded_and_exact(steps: list[tuple[int, int, bool]]) -> None:
    """Against the obvious model: what was announced, less what was sent."""
    budget = WindowBudget()
    windows = [ReceiveWindow(budget) for _ in range(10)]
    promised = [window.size for window in windows]
    for index, count, has_waited in steps:
        window = windows[index]
        count = min(count, promised[index])
        if has_waited:
            window.on_wait()
        promised[index] -= count
        promised[index] += consume(window, count)
        assert window.credit == promised[index] <= window.size <= CEILING_BYTES
        assert sum(each.size for each in windows) <= BUDGET_BYTES + 10 * FLOOR_BYTES
