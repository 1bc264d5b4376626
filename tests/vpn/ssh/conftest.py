"""What the tests of SSH share: a server of ours, a stock sshd."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ssh_lab import Keys, Sshd, keys, started_sshd

__all__ = ["keys"]


@pytest.fixture
def start_sshd(keys: Keys) -> Iterator[Callable[..., Sshd]]:
    """Start a stock sshd which accepts the user's key."""
    started: list[Sshd] = []

    def start(*lines: str, authorized: str | None = None) -> Sshd:
        started.append(started_sshd(keys, lines, authorized))
        return started[-1]

    yield start
    for sshd in started:
        sshd.stop()
