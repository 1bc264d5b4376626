"""The parent of the background process ends when that is ready, or with its error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from vpn.cli import detach
from vpn.errors import ConfigurationError, OverlayError

# Whoever starts the tests in the background may have them ignore the interrupt key.
signal.signal(signal.SIGINT, signal.default_int_handler)

def parent(child):
    try:
        detach.detach(child)
    except OverlayError as error:
        print(type(error).__name__, int(error.status), error)
    else:
        print("ready")
"""


def said(code: str, *arguments: str) -> list[str]:
    argv = [sys.executable, "-c", f"{PRELUDE}\n{code}", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def test_parent_ends_when_the_child_is_ready() -> None:
    code = """
def child(ready):
    ready()
    time.sleep(0.1)
    print("child leads its session", os.getsid(0) == os.getpid(), flush=True)
parent(child)
"""
    assert said(code) == ["ready", "child leads its session True"]


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ("raise ConfigurationError('no key')", "DetachedError 78 no key"),
        ("raise KeyError('x')", "DetachedError 1 unexpected KeyError: 'x'"),
        ("os._exit(3)", "OverlayError 1 the client ended before it was ready"),
    ],
)
def test_failure_before_that_is_the_parents(failure: str, line: str) -> None:
    code = f"""
def child(ready):
    {failure}
parent(child)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("waited for")
"""
    assert said(code) == [line, "waited for"]


def test_failure_after_that_goes_to_the_log(tmp_path: Path) -> None:
    code = """
def child(ready):
    log = detach.open_log(Path(sys.argv[1], "state", "client.log"))
    ready()
    detach.redirect(log)
    raise OverlayError("it broke")
parent(child)
os.waitpid(-1, 0)
"""
    log = tmp_path / "state" / "client.log"
    log.parent.mkdir()
    log.write_text("of the last run\n" * 10)
    assert said(code, str(tmp_path)) == ["ready"]
    assert log.read_text() == "overlay-vpn: it broke\n"


def test_interrupt_ends_the_child() -> None:
    code = """
def child(ready):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stat = Path(f"/proc/{os.getppid()}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(20)
try:
    parent(child)
except KeyboardInterrupt:
    print("interrupted")
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("waited for")
"""
    assert said(code) == ["interrupted", "waited for"]


def test_log_that_cannot_be_opened_or_is_a_link_is_the_null_device(tmp_path: Path) -> None:
    code = """
for name in sys.argv[1:]:
    print(os.readlink(f"/proc/self/fd/{detach.open_log(Path(name))}"))
"""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert said(code, "/dev/null/client.log", str(tmp_path / "link")) == ["/dev/null"] * 2
