"""The end of a process of the shim: an exit status, and at most one line on stderr.

No caller could handle an exception, and the interpreter's own report opens source files, which a
confined process may not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


def end_after(work: Callable[[], int], name: str) -> NoReturn:
    """Run the work of a process and exit with the status it returns; 1 and a line if it raises."""
    status = 1
    try:
        status = work()
    except Exception as error:
        print(f"overlay-vpn {name}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)
