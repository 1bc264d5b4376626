"""What a client can still do once it has confined itself; each thing was possible just before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shim.protocol.common import Missing
from vpn.cli.status import _text
from vpn.client import sandbox
from vpn.control.messages import Status

PRELUDE = """
import errno, os, socket, sys, threading
from pathlib import Path
import prctl
from vpn.client import sandbox
from vpn.linux import landlock
from vpn.ssh.session.client import Credentials
from vpn.ssh.trust.host_keys import HostKeys
from vpn.ssh.trust.known_hosts import add

home = Path(sys.argv[1])
os.environ["HOME"] = str(home)
prctl.set_no_new_privs(1)

def tried(what, attempt, *arguments):
    try:
        result = attempt(*arguments)
    except OSError as error:
        print(what, errno.errorcode[error.errno], flush=True)
    else:
        print(what, "done", flush=True)

def login(accept_new):
    return Credentials("alice", HostKeys("host", "host", accept_new=accept_new),
                 identities=(home / "elsewhere" / "key",))
"""


def said(home: Path, code: str) -> list[str]:
    (home / ".ssh").mkdir()
    (home / ".ssh/id_ed25519").write_text("a key")
    (home / "elsewhere").mkdir()
    (home / "elsewhere/key").write_text("a key")
    (home / "elsewhere/letter").write_text("dear")
    argv = [sys.executable, "-c", f"{PRELUDE}\n{code}", str(home)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


ATTEMPTS = """
def attempts():
    tried("key", (home / ".ssh/id_ed25519").read_text)
    tried("named key", (home / "elsewhere/key").read_text)
    tried("letter", (home / "elsewhere/letter").read_text)
    tried("home", os.listdir, home)
    tried("write", (home / "elsewhere/key").write_text, "x")
    tried("authorize", (home / ".ssh/authorized_keys").write_text, "x")
    tried("make", (home / "new").mkdir)
    tried("signal", os.kill, os.getppid(), 0)
"""


def test_confined_client_reads_its_keys_and_writes_nothing(tmp_path: Path) -> None:
    assert said(
        tmp_path,
        ATTEMPTS
        + """
attempts()
os.unlink(home / ".ssh/authorized_keys"); os.rmdir(home / "new")
assert sandbox.confine(login(False)) == ()
attempts()
tried("run", os.execv, "/bin/true", ["true"])
""",
    ) == [
        *("key done", "named key done", "letter done", "home done", "write done"),
        *("authorize done", "make done", "signal done"),
        *("key done", "named key done", "letter EACCES", "home EACCES", "write EACCES"),
        *("authorize EACCES", "make EACCES", "signal EPERM"),
        "run EACCES",
    ]


def test_confined_client_still_imports_resolves_and_hands_it_on_to_threads(tmp_path: Path) -> None:
    assert said(
        tmp_path,
        """
sandbox.confine(login(False))
import sqlite3, xml.dom.minidom
socket.getaddrinfo("localhost", 80)
thread = threading.Thread(target=tried, args=("home", os.listdir, home))
thread.start()
thread.join()
""",
    ) == ["home EACCES"]


def test_new_server_can_be_remembered_where_that_was_asked_for(tmp_path: Path) -> None:
    assert said(
        tmp_path,
        """
from asyncssh import generate_private_key
key = generate_private_key("ssh-ed25519")
sandbox.confine(login(True))
add(home / ".ssh/known_hosts", "host", key)
print((home / ".ssh/known_hosts").read_text().count("ssh-ed25519"))
tried("authorize", (home / ".ssh/authorized_keys").write_text, "x")
""",
    ) == ["1", "authorize EACCES"]


def test_kernel_without_landlock_is_told_of(tmp_path: Path) -> None:
    assert said(
        tmp_path,
        """
def absent(number, *arguments):
    raise OSError(errno.ENOSYS, "not here")

landlock._syscall = absent
print(*sandbox.confine(login(False)))
""",
    ) == ["landlock"]


def test_every_missing_feature_has_a_line_of_its_own_in_status() -> None:
    lines = sandbox.warnings(tuple(Missing))
    assert len({*lines}) == len(Missing)
    shown = _text(Status(state="connected", warnings=lines)).splitlines()
    assert [line for line in shown if line.startswith("  warning")] == [
        f"  warning  {line}" for line in lines
    ]
    assert not sandbox.warnings(())
