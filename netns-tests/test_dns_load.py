"""Names under load: dnsperf(1) asks as fast as it is answered, and no answer is wrong.

app ─ dnsperf, 50 questions at a time, and a checker ─▶ gate ─ session ─▶ server ─▶ target: a zone

dnsperf tells the response code of each answer and what was lost. The checker, beside it, looks into
answers: a name keeps one address, of the pool, that leads back to it; records are the zone's.
"""

from __future__ import annotations

import random
import re
import threading
from ipaddress import ip_address

import dnslib
import pytest

from lab import Lab, services
from lab.addresses import ROUTER, TARGET
from lab.ask import POOL4, datagrams, query
from lab.overlay import Overlay

NAMES = 100
SECONDS = pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.soak)])

Expected = dict[tuple[str, str], str]
"""The response code, and what the data begins with, by name and type."""


def zone_and_answers() -> tuple[str, Expected]:
    zone, expected = services.ZONE, {}
    for number in range(NAMES):
        name = f"n{number}"
        zone += f'{name} IN A {TARGET.v4}\n{name} IN TXT "text of {name}"\n'
        expected[f"{name}.example.com", "A"] = "NOERROR 198."
        expected[f"{name}.example.com", "AAAA"] = "NOERROR"
        expected[f"{name}.example.com", "TXT"] = f'NOERROR "text of {name}"'
        expected[f"{name}.example.com", "HTTPS"] = "NOERROR"
        expected[f"no{number}.example.com", "A"] = "NXDOMAIN"
        expected[f"no{number}.example.com", "TXT"] = "NXDOMAIN"
    expected["www.example.com", "AAAA"] = "NOERROR fd6f:"
    expected["example.com", "MX"] = "NOERROR 10 www.example.com."
    expected["localhost", "A"] = "NOERROR 127.0.0.1"
    return zone, expected


def told(wire: bytes) -> str:
    """The response code of an answer, and its data, if there is any."""
    answer = dnslib.DNSRecord.parse(wire)
    code = str(dnslib.RCODE[answer.header.rcode])
    assert len(answer.rr) < 2
    return " ".join([code, *(str(one.rdata) for one in answer.rr)])


class Checker(threading.Thread):
    """Asks one question after the other and keeps what was wrong."""

    def __init__(self, lab: Lab, expected: Expected) -> None:
        super().__init__()
        self._socket = datagrams(lab.app, ROUTER.v4)
        self._socket.settimeout(15)
        self._expected = list(expected.items())
        self._addresses: dict[str, str] = {}
        self._ending = threading.Event()
        self.checked = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        dice = random.Random(7)
        while not self._ending.is_set():
            (name, rtype), wanted = dice.choice(self._expected)
            got = self._ask(name, rtype)
            self.checked += 1
            is_right = got.startswith(wanted) if " " in wanted else got == wanted
            if not is_right:
                self.wrong.append(f"{name} {rtype}: {got}, not {wanted}")
            if wanted == "NOERROR 198.":
                self._check_address(name, got)

    def finish(self) -> None:
        self._ending.set()
        self.join()
        self._socket.close()

    def _check_address(self, name: str, got: str) -> None:
        address = got.split()[-1]
        if ip_address(address) not in POOL4 or self._addresses.setdefault(name, address) != address:
            self.wrong.append(f"{name}: {address}, before {self._addresses[name]}")
        back = self._ask(ip_address(address).reverse_pointer, "PTR")
        if back != f"NOERROR {name}.":
            self.wrong.append(f"{address}: {back}")

    def _ask(self, name: str, rtype: str) -> str:
        self._socket.send(query(name, rtype))
        return told(self._socket.recv(4096))


@SECONDS
def test_dnsperf_finds_no_wrong_answer_and_loses_none(
    lab: Lab, overlay: Overlay, seconds: int
) -> None:
    zone, expected = zone_and_answers()
    services.names(lab.target, zone)
    overlay.up(overlay.serve())
    questions = [f"{name} {rtype}" for name, rtype in expected]
    random.Random(5).shuffle(questions)
    checker = Checker(lab, expected)
    checker.start()
    argv = ["dnsperf", "-s", ROUTER.v4, "-l", seconds, "-t", 15, "-q", 50, "-v"]
    try:
        done = lab.app.run(
            [*map(str, argv)], stdin="\n".join([*questions, ""]), timeout=seconds + 60
        )
    finally:
        checker.finish()
    assert checker.wrong == []
    answers = re.findall(r"^> (\w+) (\S+) (\w+) [0-9.]+$", done.stdout, re.MULTILINE)
    wrong = [
        (name, rtype, code)
        for code, name, rtype in answers
        if expected[name, rtype].split()[0] != code
    ]
    assert wrong == []
    (lost,) = re.findall(r"Queries lost: +(\d+)", done.stdout)
    (completed,) = re.findall(r"Queries completed: +(\d+)", done.stdout)
    (rate,) = re.findall(r"Queries per second: +([0-9.]+)", done.stdout)
    print(f"{completed} answers, {float(rate):.0f} a second, {checker.checked} looked into")
    assert (int(lost), int(completed)) == (0, len(answers))
    assert len({(name, rtype) for _, name, rtype in answers}) == len(expected)
    assert checker.checked > 20
