"""A test that fails: the job has to fail with it."""

from __future__ import annotations


def test_client_is_perfect() -> None:
    raise AssertionError("it is not")
