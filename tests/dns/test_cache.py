"""What is kept of the far end's answers, for how long, and how much of it."""

from __future__ import annotations

import pytest

from dns.cache import MAX_ANSWERS, MAX_OCTETS, Cache
from dns.records import Record
from dns.upstream import Answer, Outcome

MX = 15
KEY = ("app.example", MX)
OWNER = b"\x03app\x07example\0"


def found(ttl_s: int = 10, data: bytes = b"\0\1\0") -> Answer:
    return Answer(Outcome.FOUND, ttl_s, (Record(OWNER, MX, 1, ttl_s, data),))


@pytest.fixture
def cache() -> Cache:
    return Cache()


def test_empty_asked_knows_nothing(cache: Cache) -> None:
    assert cache.get(KEY, 0.0) is None


def test_answer_is_kept_while_it_lives_and_ages(cache: Cache) -> None:
    cache.put(KEY, found(10), 100.0)
    assert cache.get(KEY, 100.9) == found(10)
    assert cache.get(KEY, 109.9) == found(1)
    assert cache.get(KEY, 110.0) is None
    assert len(cache) == 0


def test_age_of_an_answer_is_known_while_it_lives(cache: Cache) -> None:
    cache.put(KEY, found(10), 100.0)
    assert cache.age(KEY, 103.5) == (3, 7)
    assert cache.age(KEY, 110.0) is None
    assert cache.age(("other.example", MX), 100.0) is None


def test_other_name_and_other_type_are_other_questions(cache: Cache) -> None:
    cache.put(KEY, found(), 0.0)
    assert cache.get(("app.example", 16), 0.0) is None
    assert cache.get(("www.example", MX), 0.0) is None


def test_nothing_there_is_kept_as_long_as_it_says(cache: Cache) -> None:
    cache.put(KEY, Answer(Outcome.NX_DOMAIN, 5), 0.0)
    assert cache.get(KEY, 4.0) == Answer(Outcome.NX_DOMAIN, 1)
    assert cache.get(KEY, 5.0) is None


@pytest.mark.parametrize("outcome", Outcome)
def test_answer_that_may_not_be_kept_is_not_and_ends_the_one_before(
    cache: Cache, outcome: Outcome
) -> None:
    cache.put(KEY, found(), 0.0)
    cache.put(KEY, Answer(outcome), 0.0)
    assert cache.get(KEY, 0.0) is None


def test_cleared_knows_nothing(cache: Cache) -> None:
    cache.put(KEY, found(), 0.0)
    cache.clear()
    assert cache.get(KEY, 0.0) is None


def test_full_forgets_what_came_first(cache: Cache) -> None:
    for number in range(MAX_ANSWERS + 1):
        cache.put((f"n{number}", MX), Answer(Outcome.NO_DATA, 10), 0.0)
    assert len(cache) == MAX_ANSWERS
    assert cache.get(("n0", MX), 0.0) is None
    assert cache.get((f"n{MAX_ANSWERS}", MX), 0.0) is not None


def test_large_answers_are_bounded_by_their_octets(cache: Cache) -> None:
    for number in range(100):
        cache.put((f"n{number}", MX), found(data=bytes(30000)), 0.0)
    assert 10 < len(cache) <= MAX_OCTETS // 30000


def test_answer_that_would_drive_out_many_is_not_kept(cache: Cache) -> None:
    cache.put(KEY, found(data=bytes(65535)), 0.0)
    cache.put(("other", MX), found(data=bytes(65535 + 1024)), 0.0)
    assert len(cache) == 0


def test_what_is_dropped_makes_room(cache: Cache) -> None:
    for number in range(1000):
        cache.put(KEY, found(data=bytes(30000)), float(number))
    cache.put(("other", MX), found(), 1000.0)
    assert len(cache) == 2
