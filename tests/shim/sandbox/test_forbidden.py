"""S5: each forbidden call, really made, in a child under the very filter of a process of the shim.

No root is needed: the filter looks at a call before the kernel looks at who makes it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .roles import ROLES

Outcomes = dict[str, dict[str, str]]

FAILS = {
    "clone3": "ENOSYS",
    "openat": "EACCES",
    "openat2": "EACCES",
    "fstat": "EACCES",
    "newfstatat": "EACCES",
}
"""What does not end a process, and how it fails."""


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    script = str(Path(__file__).with_name("attempts.py"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    found: Outcomes = json.loads(done.stdout)
    return found


def test_without_a_filter_the_kernel_kills_for_none_of_them(outcomes: Outcomes) -> None:
    nobody = outcomes["nobody"]
    assert "killed" not in nobody.values()
    assert not [name for name, outcome in nobody.items() if outcome.startswith("broken")]
    assert nobody["openat"] == nobody["memfd_create"] == nobody["mmap-code"] == "done"


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_attempt_is_ended_or_fails_as_declared(outcomes: Outcomes, role: str) -> None:
    expected = {
        name: "done"
        if role == "namespace" and name in ("socket-2", "socket-10")
        else FAILS.get(name, "killed")
        for name in outcomes["nobody"]
    }
    assert outcomes[role] == expected
