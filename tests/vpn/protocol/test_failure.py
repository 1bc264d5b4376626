"""The table of failures: each thing that stands for a failure stands for one only."""

from __future__ import annotations

from collections import Counter

import pytest

from vpn.protocol.failure import CAUSES, Failure, OpenFailed


def test_table_is_about_every_failure() -> None:
    assert set(CAUSES) == set(Failure)


@pytest.mark.parametrize("column", ["errnos", "lookups", "wordings"])
def test_nothing_stands_twice(column: str) -> None:
    counts = Counter(one for cause in CAUSES.values() for one in getattr(cause, column))
    assert set(counts.values()) == {1}


def test_wording_is_in_lower_case_as_it_is_compared() -> None:
    wordings = [one for cause in CAUSES.values() for one in cause.wordings]
    assert [one.casefold() for one in wordings] == wordings


@pytest.mark.parametrize(
    ("failed", "text"),
    [
        (OpenFailed(Failure.ECONNREFUSED), "ECONNREFUSED: connection refused"),
        (OpenFailed(Failure.NXDOMAIN, "no such host"), "NXDOMAIN: no such host"),
        (OpenFailed(Failure.POLICY), "POLICY: denied"),
        (OpenFailed(Failure.POLICY, "permitopen"), "POLICY: permitopen"),
    ],
)
def test_failure_is_shown(failed: OpenFailed, text: str) -> None:
    assert str(failed) == text
