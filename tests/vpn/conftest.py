"""What the tests of `vpn` share: laboratories, and event loops to run a dialogue on."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "transport"))

from transport_lab import LOOPS, Runner


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Iterator[Callable]:
    """Run a coroutine on each kind of event loop."""
    with Runner(request.param) as runner:
        yield runner.run
