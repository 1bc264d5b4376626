import pytest
from asyncssh.constants import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_CHANNEL_TYPE,
)
from hypothesis import given
from hypothesis import strategies as st

from vpn.protocol.failure import Failure, OpenFailed
from vpn.ssh.open_failure import MAX_DETAIL, classify, to_wire

# What each kind of server was seen, or is documented, to say.
SAID = [
    ("Connection refused", Failure.ECONNREFUSED),
    ("No route to host", Failure.EHOSTUNREACH),
    ("Network is unreachable", Failure.ENETUNREACH),
    ("open failed", Failure.ENETUNREACH),
    ("Connection timed out", Failure.ETIMEDOUT),
    ("Operation timed out", Failure.ETIMEDOUT),
    ("Host is unreachable", Failure.EHOSTUNREACH),
    ("Network unreachable", Failure.ENETUNREACH),
    ("Host is down", Failure.EHOSTUNREACH),
    ("Can't assign requested address", Failure.ENETUNREACH),
    ("Cannot assign requested address", Failure.ENETUNREACH),
    ("Permission denied", Failure.POLICY),
    ("Name or service not known", Failure.NXDOMAIN),
    ("No address associated with hostname", Failure.NXDOMAIN),
    ("Name does not resolve", Failure.NXDOMAIN),
    ("Name has no usable address", Failure.NXDOMAIN),
    ("nodename nor servname provided, or not known", Failure.NXDOMAIN),
    ("hostname nor servname provided, or not known", Failure.NXDOMAIN),
    ("Temporary failure in name resolution", Failure.UNAVAILABLE),
    ("Try again", Failure.UNAVAILABLE),
    ("Non-recoverable failure in name resolution", Failure.UNAVAILABLE),
    ("[Errno 111] Connect call failed ('192.0.2.1', 80)", Failure.ECONNREFUSED),
    ("[Errno 113] Connect call failed ('192.0.2.1', 80)", Failure.EHOSTUNREACH),
    ("[Errno 101] Network is unreachable", Failure.ENETUNREACH),
    (
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
        "[Errno 111] Connect call failed ('127.0.0.1', 1)",
        Failure.ECONNREFUSED,
    ),
    ("[Errno -2] Name or service not known", Failure.NXDOMAIN),
    ("dial tcp 192.0.2.1:80: connect: connection refused", Failure.ECONNREFUSED),
    ("dial tcp: lookup nowhere: no such host", Failure.NXDOMAIN),
    ("dial tcp 192.0.2.1:80: i/o timeout", Failure.ETIMEDOUT),
    ("", Failure.UNAVAILABLE),
    ("something new", Failure.UNAVAILABLE),
]


@pytest.mark.parametrize(("text", "failure"), SAID)
def test_what_other_servers_say(text: str, failure: Failure) -> None:
    assert classify(OPEN_CONNECT_FAILED, text).failure is failure
    assert classify(OPEN_CONNECT_FAILED, text.upper()).failure is failure


@given(st.text())
def test_prohibited_is_policy_whatever_the_text(text: str) -> None:
    assert classify(OPEN_ADMINISTRATIVELY_PROHIBITED, text).failure is Failure.POLICY


@pytest.mark.parametrize(("text", "failure"), SAID)
def test_prohibited_is_policy_even_in_the_words_of_a_failure(text: str, failure: Failure) -> None:
    assert classify(OPEN_ADMINISTRATIVELY_PROHIBITED, text).failure is Failure.POLICY


@pytest.mark.parametrize("code", [OPEN_RESOURCE_SHORTAGE, OPEN_UNKNOWN_CHANNEL_TYPE, 0, 99])
def test_other_codes_are_unavailable(code: int) -> None:
    assert classify(code, "Connection refused").failure is Failure.UNAVAILABLE


@given(st.integers(), st.text())
def test_any_answer_has_a_meaning_that_can_be_shown(code: int, text: str) -> None:
    failed = classify(code, text)
    assert failed.detail.isprintable()
    assert len(failed.detail) <= MAX_DETAIL
    assert str(failed).startswith(failed.failure.value)


@given(
    st.sampled_from(Failure),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50).map(str.strip),
)
def test_our_own_words_survive_the_wire(failure: Failure, detail: str) -> None:
    sent = OpenFailed(failure, detail)
    got = classify(*to_wire(sent))
    assert got.failure is failure
    if failure is Failure.POLICY or detail:
        assert got.detail == detail


def test_rule_of_a_policy_follows_the_word() -> None:
    assert to_wire(OpenFailed(Failure.POLICY, "permitopen")) == (
        OPEN_ADMINISTRATIVELY_PROHIBITED,
        "POLICY:permitopen",
    )
