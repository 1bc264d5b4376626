"""What the tests of transports share: event loops, recording protocols, pairs of streams."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from transport_lab import LOOPS, Runner


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Iterator[Callable]:
    """Run a coroutine on each kind of event loop."""
    with Runner(request.param) as runner:
        yield runner.run
