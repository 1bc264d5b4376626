"""A change of the network is noticed, and so is the end of a suspension."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest

from vpn.linux import network_changes as module
from vpn.linux.network_changes import Changes

# In a network of its own: says how many changes each command has made known.
IN_A_NAMESPACE = """
import asyncio, subprocess
from vpn.linux.network_changes import Changes

async def act():
    seen = []
    changes = Changes(lambda: seen.append(1))
    for words in (
        "ip link show",
        "ip link set lo up",
        "ip link add one type veth peer name other",
        "ip address add 192.0.2.1/24 dev one",
        "ip address add 2001:db8::1/64 dev one nodad",
        "ip link set one up",
        "ip route add 198.51.100.0/24 via 192.0.2.2",
        "ip link del one",
    ):
        seen.clear()
        subprocess.run(words.split(), check=True, capture_output=True)
        await asyncio.sleep(0.05)
        print(bool(seen), words)
    changes.close()

asyncio.run(act())
"""


def test_links_addresses_and_routes_are_noticed_and_looking_at_them_is_not() -> None:
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv = ["unshare", *root, "--net", sys.executable, "-c", IN_A_NAMESPACE]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "False ip link show"
    assert [line.split()[0] for line in said[1:]] == ["True"] * 7


def test_end_of_a_suspension_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.01)
    asleep_s = 0.0

    async def act() -> None:
        nonlocal asleep_s
        seen = asyncio.Event()
        changes = Changes(seen.set, boottime=lambda: time.monotonic() + asleep_s)
        await asyncio.sleep(0.05)
        seen.clear()
        asleep_s = 3600.0
        await asyncio.wait_for(seen.wait(), 5)
        changes.close()

    asyncio.run(act())
