"""The end of a process of the shim: an exit status, and at most one line on stderr.

No caller could handle an exception, and the interpreter's own report is closed to a process under a
filter: it opens source files, and each version of Python makes other system calls for it, such as
asking the terminal for colours. Cleaning up at exit makes system calls as well.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn


def end_after(work: Callable[[], int], name: str) -> NoReturn:
    """Run the work of a process and exit with the status it returns; 1 and a line if it raises."""
    status = 1
    try:
        status = work()
    except Exception as error:
        _show(error, f"overlay-vpn {name}: ")
    finally:
        os._exit(status)


def show_by_lines() -> None:
    """Have the interpreter report uncaught errors and warnings by one line each and write(2)."""
    sys.excepthook = lambda _, error, __: _show(error)
    sys.unraisablehook = lambda unraisable: _show(unraisable.exc_value)
    warnings.showwarning = lambda message, *_, **__: _show(message)


def _show(wrong: object, before: str = "") -> None:
    text = f"{before}{type(wrong).__name__}: {wrong}"  # which may be the text of others
    print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), file=sys.stderr)
