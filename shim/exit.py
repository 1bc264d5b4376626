"""How a process of the shim ends: with a status, and at most one line about what went wrong.

Nobody calls it who could be told an exception; and the interpreter's own way out, which opens
files to show their lines, is closed to a process that may open none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


def end_after(work: Callable[[], int], name: str) -> NoReturn:
    """Do the work of a process, and end it with the status returned, or with 1 and a line."""
    status = 1
    try:
        status = work()
    except Exception as error:
        print(f"overlay-vpn {name}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)
