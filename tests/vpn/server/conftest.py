"""The tests of the server share the laboratory of the tests of SSH."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ssh"))
sys.path.insert(0, str(Path(__file__).parents[1] / "transport"))

from ssh_lab import Keys
from transport_lab import LOOPS, Runner


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Iterator[Callable]:
    """Run a coroutine on each kind of event loop."""
    with Runner(request.param) as runner:
        yield runner.run


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A user's key and the authorized_keys file of a server."""
    return Keys(tmp_path)
