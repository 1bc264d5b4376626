"""`run` fails closed: whatever is missing, the command is not started, and a line says what helps.

app ──── router ──── server
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lab import Lab, services, tcp
from lab.addresses import ABSENT, SERVER
from lab.overlay import PORT, PROGRAM, Overlay

OTHER_PIN = "SHA256:" + "A" * 43
EMBEDDED = ("--embedded",)
# seccomp(2): a system call fails as it does in a container that forbids it.
FORBID = """
import ctypes, os, struct, sys
number, error, *argv = sys.argv[1:]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, int(number)), (6, 0, 0, 0x50000 | int(error))]
code = b"".join(struct.pack("HBBI", *step) for step in [*steps, (6, 0, 0, 0x7FFF0000)])
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0
os.execvp(argv[0], argv)
"""
_ARM = platform.machine() == "aarch64"
UNSHARE, MOUNT, SETNS = (97, 40, 268) if _ARM else (272, 165, 308)
OPEN_TREE, EPERM, ENOSYS = 428, 1, 38

pytestmark = pytest.mark.lab(capture=False)

Refused = Callable[..., str]


@pytest.fixture
def refused(lab: Lab) -> Refused:
    """Runs a command behind a prefix of words; returns the line, and proves that it did not run."""
    runtime = lab.tmp / "runtime"
    runtime.mkdir(mode=0o700)
    os.chown(runtime, lab.alice.uid, lab.alice.gid)
    mark = lab.alice.home / "ran"

    def refused(*options: str | Path, prefix: Sequence[str | Path] = (), user: bool = True) -> str:
        argv = [*prefix, PROGRAM, "run", *options, "--", "touch", mark]
        done = lab.app.run(
            argv,
            user=lab.alice if user else None,
            env={"XDG_RUNTIME_DIR": str(runtime), "HOME": str(lab.alice.home)},
            check=False,
        )
        assert done.returncode == 125, done.stderr
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("overlay-vpn: ")
        assert "Traceback" not in line
        assert not mark.exists()
        assert list(runtime.glob("*/*")) == []
        return line

    return refused


def forbidding(number: int, error: int) -> list[str]:
    return [sys.executable, "-c", FORBID, str(number), str(error)]


def as_alice(lab: Lab, before: str) -> list[str]:
    """Words that run a command as alice, with a mount namespace changed by `before`."""
    change = f"{before} && exec setpriv --reuid={lab.alice.uid} --regid={lab.alice.gid} "
    change += '--clear-groups "$@"'
    return ["unshare", "--mount", "sh", "-c", change, "sh"]


def test_the_command_runs_where_nothing_is_missing(lab: Lab) -> None:
    """The detector: the mark that the other tests look for is made."""
    mark = lab.alice.home / "ran"
    argv = [*forbidding(SETNS + 1000, EPERM), PROGRAM, "run", *EMBEDDED, "--", "touch", mark]
    lab.app.run(argv, user=lab.alice)
    assert mark.exists()


def test_no_more_user_namespaces(lab: Lab, refused: Refused) -> None:
    limit = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh"]
    line = refused(*EMBEDDED, prefix=prefix)
    assert "no user namespace" in line
    assert "sysctl user.max_user_namespaces=" in line


def test_user_namespaces_forbidden_by_a_container(refused: Refused) -> None:
    line = refused(*EMBEDDED, prefix=forbidding(UNSHARE, EPERM))
    assert "no user namespace" in line
    assert "container" in line or "apparmor" in line


def test_user_namespaces_without_rights(refused: Refused) -> None:
    """As AppArmor has it: the namespace can be made, and nothing can be done in it."""
    line = refused(*EMBEDDED, prefix=forbidding(MOUNT, EPERM))
    assert "packaging/apparmor" in line
    assert "mount" in line


def test_mounts_cannot_be_cloned(refused: Refused) -> None:
    line = refused(*EMBEDDED, prefix=forbidding(OPEN_TREE, ENOSYS))
    assert "file system" in line
    assert "mount" in line


def test_namespaces_cannot_be_entered(refused: Refused) -> None:
    assert "namespace" in refused(*EMBEDDED, prefix=forbidding(SETNS, EPERM))


def test_tun_device_missing_or_something_else(lab: Lab, refused: Refused) -> None:
    mount = "mount -t tmpfs none /dev/net"
    line = refused(*EMBEDDED, prefix=as_alice(lab, mount), user=False)
    assert "/dev/net/tun" in line
    assert "modprobe tun" in line
    other = f"{mount} && install -m 666 /dev/null /dev/net/tun"
    assert "/dev/net/tun" in refused(*EMBEDDED, prefix=as_alice(lab, other), user=False)


def test_tun_device_closed_to_users(lab: Lab, refused: Refused) -> None:
    if not lab.is_multi_user:
        pytest.skip("needs other users")
    prefix = as_alice(lab, "mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200")
    line = refused(*EMBEDDED, prefix=prefix, user=False)
    assert "/dev/net/tun" in line
    assert "chmod 0666" in line


def test_two_things_missing_are_one_line(lab: Lab, overlay: Overlay, refused: Refused) -> None:
    if not lab.is_multi_user:
        pytest.skip("needs other users")
    hidden = as_alice(lab, "mount -t tmpfs none /dev/net")
    login = ("--host-key", OTHER_PIN, "-i", overlay.identity)
    line = refused(f"ssh://alice@{SERVER.v4}:{PORT}", *login, prefix=hidden, user=False)
    assert f"{SERVER.v4}:{PORT}" in line


def test_server_not_there_or_unreachable(overlay: Overlay, refused: Refused) -> None:
    login = ("--host-key", OTHER_PIN, "-i", overlay.identity)
    for address in (SERVER.v4, ABSENT.v4):
        line = refused(f"ssh://alice@{address}:{PORT}", *login)
        assert f"{address}:{PORT}" in line


def test_server_that_is_another_one(overlay: Overlay, refused: Refused) -> None:
    endpoint = overlay.serve()
    line = refused(endpoint.target, "--host-key", OTHER_PIN, "-i", overlay.identity)
    assert "key" in line
    line = refused(endpoint.target, "-i", overlay.identity)
    assert endpoint.pin[1] in line
    assert "--accept-new" in line


def test_login_that_the_server_refuses(overlay: Overlay, refused: Refused) -> None:
    endpoint = overlay.serve()
    overlay.authorized_keys.write_text("")
    assert "alice" in refused(endpoint.target, *endpoint.pin, "-i", overlay.identity)


def test_key_missing_or_too_open(lab: Lab, overlay: Overlay, refused: Refused) -> None:
    endpoint = overlay.serve()
    missing = lab.alice.home / "missing"
    assert str(missing) in refused(endpoint.target, *endpoint.pin, "-i", missing)
    overlay.identity.chmod(0o644)
    assert "chmod 600" in refused(endpoint.target, *endpoint.pin, "-i", overlay.identity)
    overlay.identity.chmod(0o600)


def test_words_that_mean_nothing(refused: Refused) -> None:
    embedded = {
        ("--allow", "a b"): "--allow",
        ("--deny", "10.0.0.0/8:99999"): "--deny",
        ("--publish", "http"): "[ADDRESS:]PORT[:PORT]",
        ("--host", "name"): "NAME=ADDRESS[:PORT]",
        ("--nonsense",): "overlay-vpn --help",
        ("--dns-server", "nowhere"): "nowhere",
        ("alice@server",): "--embedded",
    }
    for options, hint in embedded.items():
        assert hint in refused("--embedded", *options)
    assert "--embedded" in refused()
    assert "user@host" in refused("alice@host:port")


def test_command_not_behind_dashes(lab: Lab) -> None:
    for words in (("run", "--embedded"), ("run", "--embedded", "--"), ("run",)):
        done = lab.app.run([PROGRAM, *words], user=lab.alice, check=False)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 125
        assert "run TARGET -- CMD" in line


def test_published_port_already_used(lab: Lab, refused: Refused) -> None:
    tcp.serve(lab.app, "echo", "127.0.0.1", 18080)
    line = refused(*EMBEDDED, "--publish", "18080:80")
    assert "127.0.0.1:18080" in line
    assert "another port" in line


def test_registry_that_cannot_be_used(lab: Lab, refused: Refused) -> None:
    prefix = ["env", "XDG_RUNTIME_DIR=/nowhere"]
    line = refused(*EMBEDDED, prefix=prefix)
    assert "/nowhere" in line
    assert "XDG_RUNTIME_DIR" in line


def test_stock_server_that_is_told_wrong(lab: Lab, refused: Refused) -> None:
    """A stock sshd whose key is not the one that alice knows."""
    services.client_key(lab, lab.alice)
    server = services.sshd(lab, lab.server)
    known = lab.alice.home / ".ssh" / "known_hosts"
    other = services.client_key(lab, lab.service).with_suffix(".pub").read_text().split()[1]
    known.write_text(f"{SERVER.v4} ssh-ed25519 {other}\n")
    line = refused(f"ssh://alice@{SERVER.v4}:{server.port}")
    assert "changed" in line
