"""The tests of the server share the laboratory of the tests of SSH."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ssh"))

from ssh_lab import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A user's key and the authorized_keys file of a server."""
    return Keys(tmp_path)
