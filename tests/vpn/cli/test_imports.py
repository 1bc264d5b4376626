"""What `--help` and the parent of `run` import: start-up is mostly imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"aioquic", "asyncssh", "cryptography", "pyroute2", "rich", "uvloop"}

# The client is another process; a failure of it ends the parent where the command would start.
RUN_IN_PARENT = """
import os
from vpn.cli import main, run
from shim.protocol.link import Link
from vpn.control.messages import CLIENT_OF_PARENT, NotReady

def no_client(settings, about, link, *, mask_bus):
    Link(link, CLIENT_OF_PARENT).send(NotReady("none"))
    os._exit(0)

run._serve = no_client
assert main.run(["run", *{arguments!r}, "--", "true"]) == 125
"""


def imported(source: str) -> set[str]:
    """Run Python source in a new process and return the top-level names of all its modules."""
    tell = "\nimport sys; print('modules', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", source + tell], stdout=subprocess.PIPE, check=True, text=True
    )
    word, *names = done.stdout.splitlines()[-1].split()
    assert word == "modules"
    return set(names)


def test_detector_sees_an_import() -> None:
    assert imported("import asyncssh") & HEAVY == {"asyncssh", "cryptography"}


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], ["run", "--help"], ["list"], ["flows"]),
        *(["dns", "status"], ["dns", "query", "a.example"], ["route", "get", "127.0.0.1"]),
    ],
)
def test_short_verb_imports_nothing_heavy(arguments: list[str]) -> None:
    source = f"from vpn.cli import main\ntry: main.run({arguments})\nexcept SystemExit: pass"
    assert imported(source) & HEAVY == set()


@pytest.mark.parametrize(
    "verb",
    [
        *("status", "down", "flows", "list", "capture"),
        *("pause --for 5m", "dns status", "route get 127.0.0.1"),
    ],
)
def test_verb_that_only_asks_needs_no_event_loop(verb: str) -> None:
    elsewhere = "from shim.protocol import paths; paths.RUN_DIRECTORY = '/nonexistent'"
    names = imported(f"{elsewhere}\nfrom vpn.cli import main; main.run({verb.split()})")
    assert names & {*HEAVY, "asyncio", "ssl"} == set()


@pytest.mark.parametrize("arguments", [["--embedded"], ["alice@server.example", "--allow=a.b"]])
def test_parent_of_run_imports_nothing_heavy(arguments: list[str]) -> None:
    names = imported(RUN_IN_PARENT.format(arguments=arguments))
    assert "vpn" in names
    assert names & HEAVY == set()
