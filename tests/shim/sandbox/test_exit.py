"""What an interpreter says by itself when something is wrong, under the filter.

How it does that depends on its version: where it looks for the source, whether it asks the terminal
for colours. So here stderr is a terminal, and to look for a file is the end as well.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .test_stages import PRELUDE

CONFINE = """
import traceback, warnings  # loaded before, as where pyroute2 is
from shim.exit import end_after

class Wrong:
    def __del__(self):
        raise ValueError("so")

seccomp.BY_PATH = frozenset()
enter(Profile(frozenset()))
"""

UNCAUGHT = """
try:
    raise ValueError("so")
except ValueError:
    sys.excepthook(*sys.exc_info())
"""

FORGOTTEN = """
async def forgotten():
    pass

forgotten()
"""

FAILING = """
def work():
    raise ValueError("so")

end_after(work, "process")
"""

UNREAD = """
reading, writing = os.pipe()
os.close(reading)
os.dup2(writing, 2)
"""


def end(code: str, before: str = "") -> tuple[int, str]:
    """Run code under the filter, at a terminal. Returns the exit status and what it has said."""
    path = f"import sys; sys.path = {sys.path}"
    source = "\n".join((path, PRELUDE, before, CONFINE, code, "os._exit(0)"))
    ours, theirs = os.openpty()
    argv = [sys.executable, "-I", "-B", "-c", source]
    done = subprocess.run(argv, stderr=theirs, env={"TERM": "xterm"})
    os.write(theirs, b".")  # there is always something to read
    said = os.read(ours, 65536).decode()
    os.close(theirs)
    os.close(ours)
    return done.returncode, said.removesuffix(".").replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (UNCAUGHT, "ValueError: so"),
        ("Wrong()", "ValueError: so"),
        ("warnings.warn('so')", "UserWarning: so"),
        (FORGOTTEN, "RuntimeWarning: coroutine 'forgotten' was never awaited"),
    ],
    ids=["uncaught", "unraisable", "warning", "warning-of-the-interpreter"],
)
def test_what_is_wrong_is_one_line_and_no_call_but_write(code: str, line: str) -> None:
    assert end(code) == (0, f"{line}\n")


def test_text_of_others_is_one_line_that_a_terminal_can_be_shown() -> None:
    code = FAILING.replace('"so"', r'"a\nb \x1b]0;c\x07 \u202e"')
    assert end(code) == (1, "overlay-vpn process: ValueError: a\\nb \\x1b]0;c\\x07 \\u202e\n")
    code = UNCAUGHT.replace('"so"', r'"a\nb"')
    assert end(code) == (0, "ValueError: a\\nb\n")


def test_process_ends_with_its_status_when_nobody_can_be_told_why() -> None:
    """A line that cannot be written is not an error for which the interpreter cleans up."""
    status, said = end(FAILING, before=UNREAD)
    assert (status, said) == (1, "")
