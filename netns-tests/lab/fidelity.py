"""What the tests prove of the fidelity of the tunnel, as a table: docs/fidelity.md.

A test names what it proves, by a row of the table, once or more:

    @pytest.mark.fidelity("UDP")                                          the whole of it
    @pytest.mark.fidelity("UDP", over="sshd", cell="◐ refused at once")   less, over that server

It speaks of the server over which it ran: that of its `way`, `over`, or else ours. A mark that
names the server takes the place of one that does not.

As a pytest plugin, `--fidelity FILE` writes the table after a run in which every test that has a
mark was run and has passed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

SERVERS: Final = ("ours", "sshd")
WHOLE: Final = "●"
TABLES: Final = {
    "What passes": (
        "connect-first (SYN held)",
        "refused → RST",
        "host/net unreachable → ICMP",
        "policy denied → ICMP admin-prohibited",
        "timeout stays a timeout",
        "TCP half-close",
        "RST (not FIN) passed on after open",
        "UDP",
        "ICMP echo, truthful",
        "IPv6 flows",
        "IPv6 blackhole/REJECT when v4-only",
        "PMTU safe (TCP terminated locally)",
        "Path-MTU signal for UDP > datagram",
        "TUN offload (GSO/GRO, vnet_hdr)",
    ),
    "Routes, names, leaks": (
        "include/exclude CIDR",
        "per-port include",
        "hostname / suffix in policy",
        "deny rule → NXDOMAIN/REFUSED",
        "server itself auto-excluded",
        "DNS: remote resolve",
        "DNS: fake-IP / virtual",
        "DNS: split by domain",
        "systemd-resolved per-link D-Bus",
        "resolv.conf trample detection",
        "HTTPS/SVCB (type 65) handled for fake-IP",
        "DoT/DoH of clients seen or blocked",
        "fail-closed if tunnel drops",
        "lock-down when stopped",
        "crash (kill -9) leaves nothing",
        "docker/bridge traffic included on request",
        "LAN sharing with an ACL",
        "subnet-overlap detection / remap",
    ),
}
_HEAD: Final = """\
# Fidelity

What an application meets in the tunnel, beside what it would meet on a network. `make test` writes
this table from its results, and fails if it is not the one here: a cell says what the tests beside
it have shown, ● all of it, ◐ part of it. No test, no claim: such a cell is empty.
"""


class Proof(NamedTuple):
    """A test that has passed, and what that says of one row."""

    row: str
    over: str
    cell: str
    test: str
    """`file.py::function`"""


@dataclass(frozen=True, slots=True)
class _Mark:
    row: str
    cell: str = WHOLE
    over: str | None = None

    def __post_init__(self) -> None:
        if self.row not in itertools.chain.from_iterable(TABLES.values()):
            raise ValueError(f"no row of the fidelity table: {self.row!r}")
        if self.over not in (None, *SERVERS):
            raise ValueError(f"no server of the fidelity table: {self.over!r}")


def proofs(item: pytest.Item) -> list[Proof]:
    """Return what a test proves if it passes. Raises ValueError, TypeError if a mark is wrong."""
    marks = [_Mark(*mark.args, **mark.kwargs) for mark in item.iter_markers("fidelity")]
    over = _server_of(item, marks)
    test = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
    special = {mark.row for mark in marks if mark.over == over}
    return [
        Proof(mark.row, over, mark.cell, test)
        for mark in marks
        if mark.over == over or (mark.over is None and mark.row not in special)
    ]


def _server_of(item: pytest.Item, marks: Sequence[_Mark]) -> str:
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    if "way" in parameters:
        return str(parameters["way"]).split()[1]
    named = {mark.over for mark in marks if mark.over is not None}
    if len(named) > 1:
        raise ValueError(f"{item.name} runs over one server, and its marks name two")
    return named.pop() if named else SERVERS[0]


def render(found: Iterable[Proof]) -> str:
    """Return the document."""
    known = sorted(set(found))
    return "\n".join([_HEAD, *(line for title in TABLES for line in _table(title, known))])


def _table(title: str, found: Sequence[Proof]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "|  | over our server | over an sshd | held by |"
    yield "|---|---|---|---|"
    for row in TABLES[title]:
        of_row = [one for one in found if one.row == row]
        cells = [_cell(one.cell for one in of_row if one.over == over) for over in SERVERS]
        tests = sorted({f"`netns-tests/{one.test}`" for one in of_row})
        yield f"| {row} | {' | '.join(cells)} | {'<br>'.join(tests)} |"
    yield ""


def _cell(cells: Iterable[str]) -> str:
    """Join what several tests say: the whole first, then what is less than that."""
    return ", ".join(sorted(set(cells), key=lambda cell: (cell != WHOLE, cell)))


def _proof(words: Any) -> Proof:
    return Proof._make(words)


class Plugin:
    """Collects proofs where the results of a run come together."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._passed: set[Proof] = set()
        self._is_whole = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = [_proof(words) for name, words in report.user_properties if name == "fidelity"]
        if report.when == "call" and report.passed:
            self._passed.update(found)
        elif found and not report.passed:
            self._is_whole = False

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._output.unlink(missing_ok=True)
        if self._is_whole and exitstatus == 0:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            self._output.write_text(render(self._passed))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fidelity FILE`."""
    parser.addoption("--fidelity", type=Path, metavar="FILE", help="Write docs/fidelity.md anew.")


def pytest_configure(config: pytest.Config) -> None:
    """Collect where the workers report, or where there are none."""
    config.addinivalue_line(
        "markers", "fidelity(row, cell, over): what it proves of docs/fidelity.md, over what server"
    )
    output = config.getoption("fidelity")
    if output is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Plugin(output))


def pytest_itemcollected(item: pytest.Item) -> None:
    """A mark that is none is an error before anything runs."""
    item.user_properties += [("fidelity", list(proof)) for proof in proofs(item)]
