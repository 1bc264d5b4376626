"""A PostgreSQL client with several hosts goes on to the next, because refusals are honest.

libpq tries the hosts of a connection string in turn, and the next one only when connecting has
failed: behind a tunnel that says "connected" first, it is stuck with the first one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab import Program, postgres
from lab.addresses import ABSENT, NO_ROUTE, PROHIBITED, TARGET
from lab.ways import Way

CLOSED = 5431
SLACK_S = 5.0
TARGETS = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def database(way: Way) -> Iterator[Program]:
    program = postgres.serve(way.lab, way.lab.target)
    yield program
    program.stop()


def ask(way: Way, hosts: str, ports: str, more: str = "") -> str:
    """Ask the first server that is there where it is."""
    string = f"host={hosts} port={ports} user=postgres dbname=postgres {more}"
    question = "select host(inet_server_addr()), inet_server_port()"
    argv = ["psql", "--no-psqlrc", "-At", "-c", question, string]
    return way.app.run(argv, timeout=60).stdout.strip()


@TARGETS
@pytest.mark.timeout(180)
def test_next_host_is_asked_when_one_has_failed(way: Way, database: Program, family: int) -> None:
    there = TARGET[family]
    for first, port in (
        (there, CLOSED),
        (NO_ROUTE[family], postgres.PORT),
        (ABSENT[family], postgres.PORT),
        (PROHIBITED[family], postgres.PORT),
    ):
        started_s = time.monotonic()
        got = ask(way, f"{first},{there}", f"{port},{postgres.PORT}", "connect_timeout=20")
        assert got == f"{there}|{postgres.PORT}"
        # By an answer, not by connect_timeout.
        assert time.monotonic() - started_s < 20 - SLACK_S


@pytest.mark.timeout(120)
def test_hosts_by_name_and_a_session_that_may_write(way: Way, database: Program) -> None:
    hosts = "absent.example.com,noroute.example.com,www.example.com"
    got = ask(way, hosts, str(postgres.PORT), "target_session_attrs=read-write")
    assert got in {f"{address}|{postgres.PORT}" for address in TARGET}
