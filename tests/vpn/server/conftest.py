"""The tests of the server share the laboratory of the tests of SSH."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ssh"))

from ssh_lab import keys

__all__ = ["keys"]
