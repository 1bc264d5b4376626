"""ICMP errors and failures: what is said of a failure, and what an error that came means."""

from __future__ import annotations

import pytest

from vpn.protocol import echo, icmp
from vpn.protocol.failure import Failure


@pytest.mark.parametrize(
    ("failure", "icmp4", "icmp6"),
    [
        (Failure.ECONNREFUSED, (3, 3), (1, 4)),
        (Failure.EHOSTUNREACH, (3, 1), (1, 3)),
        (Failure.NXDOMAIN, (3, 1), (1, 3)),
        (Failure.ENETUNREACH, (3, 0), (1, 0)),
        (Failure.UNAVAILABLE, (3, 0), (1, 0)),
        (Failure.POLICY, (3, 13), (1, 1)),
        (Failure.UNSUPPORTED, (3, 13), (1, 1)),
        (Failure.ETIMEDOUT, None, None),
    ],
)
def test_failure_is_reported(
    failure: Failure, icmp4: icmp.Error | None, icmp6: icmp.Error | None
) -> None:
    assert (icmp.error_for(failure, 4), icmp.error_for(failure, 6)) == (icmp4, icmp6)


@pytest.mark.parametrize("family", [4, 6])
def test_refused_ping_is_a_host_that_is_not_there(family: int) -> None:
    assert echo.error_for(Failure.ECONNREFUSED, family) == icmp.HOST_UNREACHABLE[family]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("failure", [one for one in Failure if one is not Failure.ECONNREFUSED])
def test_other_failures_of_a_ping_are_those_of_a_datagram(failure: Failure, family: int) -> None:
    assert echo.error_for(failure, family) == icmp.error_for(failure, family)


@pytest.mark.parametrize(
    ("family", "error", "failure"),
    [
        *((4, (3, code), Failure.EHOSTUNREACH) for code in (0, 1, 2, 3, 5, 12)),
        *((4, (3, code), Failure.POLICY) for code in (9, 10, 13)),
        (4, (3, 4), Failure.ETIMEDOUT),
        (4, (11, 0), Failure.ETIMEDOUT),
        (4, (1, 1), Failure.ETIMEDOUT),
        *((6, (1, code), Failure.EHOSTUNREACH) for code in (0, 2, 3, 4)),
        (6, (1, 1), Failure.POLICY),
        (6, (2, 0), Failure.ETIMEDOUT),
        (6, (3, 0), Failure.ETIMEDOUT),
    ],
)
def test_error_has_come(family: int, error: icmp.Error, failure: Failure) -> None:
    assert icmp.failure_of(*error, family) is failure
