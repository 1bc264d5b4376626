"""The pool: beside it stands a model with dicts, and a process that dies between any two lines."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dns.pool import FIRST_INDEX, QUARANTINE_S, Pool, buffer_size

MakePool = Callable[..., Pool]

NET4 = IPv4Network("198.18.0.0/15")
NET6 = IPv6Network("fd00:1:2:3::/64")
SLOTS = 8
NAMES = [f"n{number}.example" for number in range(12)]


def fill(pool: Pool, slots: int, now: float = 0.0) -> list[str]:
    """Assign names until every slot is taken; return them."""
    names: list[str] = []
    candidates = (f"f{number}.example" for number in range(100_000))
    while len(names) < slots:
        name = next(candidates)
        if pool.assign(name, now) is not None:
            names.append(name)
    return names


def addresses_of(pool: Pool, name: str, now: float) -> tuple[IPv4Address, IPv6Address]:
    pair = pool.assign(name, now)
    assert pair is not None
    return pair


def test_new_name_gets_the_same_index_in_both_networks(make_pool: MakePool) -> None:
    v4, v6 = addresses_of(make_pool(), "app.example", 0.0)
    assert (v4 in NET4, v6 in NET6) == (True, True)
    assert int(v4) - int(NET4[0]) == int(v6) - int(NET6[0]) >= FIRST_INDEX


def test_known_name_keeps_its_addresses(make_pool: MakePool) -> None:
    pool = make_pool()
    pair = addresses_of(pool, "app.example", 0.0)
    fill(pool, 40)
    assert pool.assign("app.example", 10 * QUARANTINE_S) == pair


def test_address_stands_for_its_name(make_pool: MakePool) -> None:
    pool = make_pool()
    v4, v6 = addresses_of(pool, "app.example", 0.0)
    assert (pool.name_of(v4), pool.name_of(v6)) == ("app.example", "app.example")


def test_fresh_pool_stands_for_nothing(make_pool: MakePool) -> None:
    pool = make_pool()
    for net in (NET4, NET6):
        assert {pool.name_of(net[index]) for index in range(200)} == {None}


@pytest.mark.parametrize(
    "text", ["198.17.255.255", "198.20.0.0", "fd00:1:2:4::", "::1", "127.0.0.1"]
)
def test_foreign_address_not_contained(make_pool: MakePool, text: str) -> None:
    pool, address = make_pool(), (IPv6Address if ":" in text else IPv4Address)(text)
    assert (pool.contains(address), pool.name_of(address)) == (False, None)


@pytest.mark.parametrize(
    "text", ["198.18.0.0", "198.18.0.1", "198.19.255.255", "fd00:1:2:3::1", "fd00:1:2:3:ffff::"]
)
def test_own_address_contained_though_unassigned(make_pool: MakePool, text: str) -> None:
    pool, address = make_pool(), (IPv6Address if ":" in text else IPv4Address)(text)
    assert (pool.contains(address), pool.name_of(address)) == (True, None)


def test_full_pool_hands_out_neither_first_nor_last_addresses() -> None:
    net4, net6 = IPv4Network("10.0.0.0/27"), IPv6Network("fd00::/122")
    pool = Pool(memoryview(bytearray(buffer_size(8))), net4, net6, b"key", 8)
    pairs = [addresses_of(pool, name, 0.0) for name in fill(pool, 8)]
    assert sorted(v4 for v4, _ in pairs) == [net4[index] for index in range(16, 24)]


def test_full_pool_gives_nothing_rather_than_anothers_address(make_pool: MakePool) -> None:
    pool = make_pool(SLOTS)
    names = fill(pool, SLOTS)
    before = {name: addresses_of(pool, name, 1.0) for name in names}
    assert pool.assign("late.example", QUARANTINE_S) is None
    assert {name: addresses_of(pool, name, 2.0) for name in names} == before


def test_full_pool_after_quarantine_reuses(make_pool: MakePool) -> None:
    pool = make_pool(SLOTS)
    fill(pool, SLOTS)
    v4, _ = addresses_of(pool, "late.example", QUARANTINE_S)
    assert pool.name_of(v4) == "late.example"


def test_answer_repeated_renews_the_quarantine(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.assign("app.example", 0.0)
    pool.assign("app.example", 5.0)
    assert pool.assign("late.example", QUARANTINE_S + 4.9) is None
    assert pool.assign("late.example", QUARANTINE_S + 5.0) is not None


def test_pinned_name_kept_forever(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.assign("app.example", 0.0)
    pool.pin("app.example")
    pool.pin("app.example")
    pool.unpin("app.example", 1.0)
    assert pool.assign("late.example", 1e9) is None


def test_unpinned_name_quarantined_anew(make_pool: MakePool) -> None:
    """The flow may have lasted for hours, and who had one will want another."""
    pool = make_pool(1)
    pool.assign("app.example", 0.0)
    pool.pin("app.example")
    pool.unpin("app.example", 10_000.0)
    assert pool.assign("late.example", 10_000.0 + QUARANTINE_S - 1) is None
    assert pool.assign("late.example", 10_000.0 + QUARANTINE_S) is not None


def test_unknown_name_neither_pinned_nor_unpinned(make_pool: MakePool) -> None:
    pool = make_pool()
    with pytest.raises(KeyError):
        pool.pin("app.example")
    pool.assign("app.example", 0.0)
    with pytest.raises(KeyError):
        pool.unpin("app.example", 0.0)


@pytest.mark.parametrize("name", ["", "a" * 254, "b\xfccher"])
def test_no_name_not_assigned(make_pool: MakePool, name: str) -> None:
    with pytest.raises(ValueError):
        make_pool().assign(name, 0.0)


def test_longest_name_assigned(make_pool: MakePool) -> None:
    pool, name = make_pool(1), "a" * 253
    v4, _ = addresses_of(pool, name, 0.0)
    assert pool.name_of(v4) == name


def test_restarted_process_finds_the_same_map(make_pool: MakePool) -> None:
    buffer = bytearray(buffer_size(64))
    old = make_pool(64, buffer)
    before = {name: addresses_of(old, name, 5.0) for name in fill(old, 60)}
    new = make_pool(64, buffer)
    assert {name: new.assign(name, 6.0) for name in before} == before


def test_hash_with_another_key_gives_other_addresses(make_pool: MakePool) -> None:
    one, other = make_pool(4096), make_pool(4096, key=b"another")
    differing = [name for name in NAMES if one.assign(name, 0.0) != other.assign(name, 0.0)]
    assert len(differing) > len(NAMES) / 2


@pytest.mark.parametrize("change", ["key", "net"])
def test_buffer_of_another_pool_refused(make_pool: MakePool, change: str) -> None:
    buffer = bytearray(buffer_size(8))
    make_pool(8, buffer)
    net4 = IPv4Network("10.0.0.0/8") if change == "net" else NET4
    with pytest.raises(ValueError, match="another pool"):
        Pool(memoryview(buffer), net4, NET6, b"other" if change == "key" else b"key", 8)


@pytest.mark.parametrize(
    ("size", "slots", "net4", "net6", "key"),
    [
        (buffer_size(8) - 1, 8, NET4, NET6, b"k"),
        (buffer_size(6), 6, NET4, NET6, b"k"),
        (buffer_size(0), 0, NET4, NET6, b"k"),
        (buffer_size(16), 16, IPv4Network("10.0.0.0/27"), NET6, b"k"),
        (buffer_size(16), 16, NET4, IPv6Network("fd00::/123"), b"k"),
        (buffer_size(8), 8, NET4, NET6, b""),
        (buffer_size(8), 8, NET4, NET6, b"k" * 65),
    ],
)
def test_arguments_that_do_not_fit_refused(
    size: int, slots: int, net4: IPv4Network, net6: IPv6Network, key: bytes
) -> None:
    with pytest.raises(ValueError):
        Pool(memoryview(bytearray(size)), net4, net6, key, slots)


class Killed(BaseException):
    """The process is gone; nothing catches it."""


def assign_and_die(pool: Pool, name: str, now: float, lines: int) -> bool:
    """Assign, and die before line `lines` of the store; say whether it came to that."""
    seen = 0

    def on_line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal seen
        if event == "line":
            seen += 1
            if seen > lines:
                raise Killed
        return on_line

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        return on_line if frame.f_code is Pool._write.__code__ else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        pool.assign(name, now)
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("lines", range(6))
def test_killed_while_replacing_leaves_whole_names_only(make_pool: MakePool, lines: int) -> None:
    buffer = bytearray(buffer_size(SLOTS))
    pool = make_pool(SLOTS, buffer)
    names = fill(pool, SLOTS)
    pairs = {name: addresses_of(pool, name, 0.0) for name in names}

    died = assign_and_die(pool, "a-longer-name.than-before.example", QUARANTINE_S, lines)

    assert died is (lines < 5)
    after = make_pool(SLOTS, buffer)
    found = {after.name_of(v4) for v4, _ in pairs.values()} - {None}
    assert found <= {*names, "a-longer-name.than-before.example"}
    for name in found & set(names):  # nothing behind the torn record is lost
        assert after.assign(name, QUARANTINE_S) == pairs[name]
    assert after.assign("next.example", QUARANTINE_S) is not None or len(found) == SLOTS


def test_killed_while_adding_leaves_the_slot_free(make_pool: MakePool) -> None:
    for lines in range(5):
        buffer = bytearray(buffer_size(1))
        assert assign_and_die(make_pool(1, buffer), "app.example", 0.0, lines)
        after = make_pool(1, buffer)
        v4, _ = addresses_of(after, "app.example", 0.0)
        assert after.name_of(v4) == "app.example"


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_loaded_pool_still_finds_slots(make_pool: MakePool, load: float) -> None:
    slots = 2048
    pool = make_pool(slots)
    wanted = int(slots * load)
    missed = sum(pool.assign(f"{number}.example", 0.0) is None for number in range(wanted))
    assert missed == 0


def test_known_name_assigned_in_microseconds(make_pool: MakePool) -> None:
    pool = make_pool(4096)
    names = fill(pool, 2000)

    def elapsed_s() -> float:
        start = time.thread_time()
        for name in names:
            pool.assign(name, 1.0)
        return time.thread_time() - start

    # Generous: about 4 µs each on the machine this was written on.
    assert min(elapsed_s() for _ in range(5)) / len(names) < 40e-6


class PoolAndModel(RuleBasedStateMachine):
    """A pool of eight slots, twelve names, and what two dicts say about them."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(buffer_size(SLOTS))
        self.pool = self.open()
        self.now = 1000.0
        self.pairs: dict[str, tuple[IPv4Address, IPv6Address]] = {}
        self.last: dict[str, float] = {}
        self.pins: Counter[str] = Counter()

    def open(self) -> Pool:
        return Pool(memoryview(self.buffer), NET4, NET6, b"key", SLOTS)

    def is_held(self, name: str) -> bool:
        return self.pins[name] > 0 or self.now - self.last[name] < QUARANTINE_S

    @rule(name=st.sampled_from(NAMES))
    def assign(self, name: str) -> None:
        before = bytes(self.buffer)
        expected = self.pool.peek(name, self.now)
        assert bytes(self.buffer) == before
        pair = self.pool.assign(name, self.now)
        assert expected == (pair, name in self.pairs)
        if name in self.pairs:
            assert pair == self.pairs[name]
        elif pair is None:
            assert sum(map(self.is_held, self.pairs)) == SLOTS
            return
        else:
            for loser in [other for other, theirs in self.pairs.items() if theirs == pair]:
                assert not self.is_held(loser)
                del self.pairs[loser], self.last[loser]
        assert pair is not None
        self.pairs[name], self.last[name] = pair, self.now

    @rule(seconds=st.sampled_from([0.5, 100.0, QUARANTINE_S / 2, QUARANTINE_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.pairs)))
        self.pool.pin(name)
        self.pins[name] += 1

    @precondition(lambda self: +self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(+self.pins)))
        self.pool.unpin(name, self.now)
        self.pins[name] -= 1
        self.last[name] = self.now

    @rule()
    def restart(self) -> None:
        self.pool = self.open()
        for name in self.pins.elements():
            self.pool.pin(name)

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        assert (self.pool.slots, self.pool.used) == (SLOTS, len(self.pairs))
        assert self.pool.pinned == len(+self.pins)

    @invariant()
    def every_address_stands_for_its_name_and_no_other(self) -> None:
        expected: dict[IPv4Address | IPv6Address, str] = {}
        for name, pair in self.pairs.items():
            for address in pair:
                assert address not in expected
                expected[address] = name
        for net in (NET4, NET6):
            for index in range(FIRST_INDEX + SLOTS + 2):
                assert self.pool.name_of(net[index]) == expected.get(net[index])


PoolAndModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolAndModel = PoolAndModel.TestCase
