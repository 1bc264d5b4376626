"""What the client hears of what the services of the machine have done."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from shim.protocol.resolved import ABSENT, Answer, Outcome, Told
from shim.resolved.bus import CallError
from shim.resolved.methods import NETWORK_MANAGER, RESOLVED, Call
from shim.resolved.service import Host

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"


class FakeBus:
    """Has these services, and asks `answer` what becomes of a call."""

    def __init__(self, *services: str, answer: Callable[[Call], None] = lambda _: None) -> None:
        self.services = services
        self.answer = answer
        self.methods: list[str] = []

    def give_until(self, deadline_s: float) -> None:
        pass

    def has(self, service: str) -> bool:
        return service in self.services

    def call(self, call: Call) -> tuple[str, ...]:
        self.methods.append(call.method)
        self.answer(call)
        return ("/device/7",)


def host(bus: FakeBus) -> Host:
    return Host(bus, 7, ())  # type: ignore[arg-type]


def test_nobody_is_there_and_nothing_is_done() -> None:
    bus = FakeBus()
    assert host(bus).announce() == Told(ABSENT, ABSENT)
    assert bus.methods == []


def test_both_are_there_and_the_manager_comes_first() -> None:
    bus = FakeBus(RESOLVED, NETWORK_MANAGER)
    assert host(bus).announce() == Told(Answer(Outcome.DONE), Answer(Outcome.DONE))
    assert bus.methods[:2] == ["GetDeviceByIpIface", "Set"]
    assert bus.methods[-1] == "FlushCaches"


@pytest.mark.parametrize(
    ("error", "outcome", "text"),
    [
        (CallError(DENIED), Outcome.REFUSED, DENIED),
        (CallError("org.example.Broken"), Outcome.FAILED, "org.example.Broken"),
        (TimeoutError(), Outcome.SILENT, ""),
        (ConnectionResetError("gone"), Outcome.FAILED, "gone"),
    ],
)
def test_what_went_wrong_is_told_and_nothing_stays(
    error: Exception, outcome: Outcome, text: str
) -> None:
    def fail(call: Call) -> None:
        if call.method == "SetLinkDNS":
            raise error

    bus = FakeBus(RESOLVED, answer=fail)
    assert host(bus).announce() == Told(Answer(outcome, text), ABSENT)
    assert bus.methods[-1] == "RevertLink"


@pytest.mark.parametrize(
    ("method", "error", "outcome"),
    [
        ("GetDeviceByIpIface", "UnknownDevice", Outcome.DONE),
        ("GetDeviceByIpIface", "Failed", Outcome.FAILED),
        ("Set", "PermissionDenied", Outcome.REFUSED),
    ],
)
def test_manager_that_does_not_know_the_device_leaves_it_alone(
    method: str, error: str, outcome: Outcome
) -> None:
    def fail(call: Call) -> None:
        if call.method == method:
            raise CallError(f"{NETWORK_MANAGER}.{error}")

    told = host(FakeBus(RESOLVED, NETWORK_MANAGER, answer=fail)).announce()
    assert told.network_manager.outcome is outcome
    assert told.resolved == Answer(Outcome.DONE)


def test_older_service_lacks_what_it_may_lack() -> None:
    def answer(call: Call) -> None:
        if call.may_lack:
            raise CallError(UNKNOWN)

    assert host(FakeBus(RESOLVED, answer=answer)).announce().resolved.outcome is Outcome.DONE


def test_error_of_any_length_fits_its_message() -> None:
    def fail(_: Call) -> None:
        raise CallError("\N{OGHAM LETTER BEITH}" * 10_000)

    told = host(FakeBus(RESOLVED, NETWORK_MANAGER, answer=fail)).announce()
    assert told.network_manager.error
    assert len(msgspec.msgpack.encode(told)) <= Told.SIZE


def test_withdrawn_once_and_not_before_it_was_announced() -> None:
    bus = FakeBus(RESOLVED)
    one = host(bus)
    one.withdraw()
    assert bus.methods == []
    one.announce()
    assert one.withdraw().resolved.outcome is Outcome.DONE
    one.withdraw()
    assert bus.methods.count("RevertLink") == 1
