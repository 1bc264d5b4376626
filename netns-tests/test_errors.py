"""Every failure a user meets: one line that says what, where and what to do, and its exit status.

app ──── router ──── server
"""

from __future__ import annotations

import re
import subprocess

import pytest

from lab import Lab
from lab.addresses import ABSENT, SERVER
from lab.overlay import PORT, PROGRAM, Overlay

OTHER_PIN = "SHA256:" + "A" * 43


def line_of(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line that a failed command says; nothing of it looks like a program's inside."""
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("overlay-vpn: ")
    assert "Traceback" not in line
    return line


def up(overlay: Overlay, *arguments: str) -> subprocess.CompletedProcess[str]:
    return overlay.cli("up", "-i", str(overlay.identity), *arguments, check=False)


@pytest.mark.parametrize(
    "target",
    ["alice@", "alice@host:port", "@host", "ftp://host", "alice@2001:db8::1", "a b", "host:0"],
)
def test_malformed_target(overlay: Overlay, target: str) -> None:
    line = line_of(up(overlay, target), 2)
    assert "target" in line
    assert "user@host" in line


def test_unknown_option_and_unknown_verb(overlay: Overlay) -> None:
    for words in (("up", "host", "--nonsense"), ("nonsense",)):
        assert "overlay-vpn --help" in line_of(overlay.cli(*words, check=False), 2)


def test_server_not_there(overlay: Overlay) -> None:
    target = f"alice@{SERVER.v4}:{PORT}"
    line = line_of(up(overlay, target, "--host-key", OTHER_PIN), 255)
    assert f"{SERVER.v4}:{PORT}" in line
    ssh = f"ssh://alice@{SERVER.v4}:{PORT}"
    assert "refused" in line_of(up(overlay, ssh, "--host-key", OTHER_PIN), 255)


def test_server_unreachable(overlay: Overlay) -> None:
    for scheme in ("", "ssh://"):
        target = f"{scheme}alice@{ABSENT.v4}:{PORT}"
        assert ABSENT.v4 in line_of(up(overlay, target, "--host-key", OTHER_PIN), 255)


def test_unknown_host_key(overlay: Overlay) -> None:
    endpoint = overlay.serve()
    line = line_of(up(overlay, endpoint.target), 255)
    assert endpoint.pin[1] in line
    assert "--accept-new" in line


def test_wrong_host_key(overlay: Overlay) -> None:
    endpoint = overlay.serve()
    line = line_of(up(overlay, endpoint.target, "--host-key", OTHER_PIN), 255)
    assert "key" in line


def test_changed_host_key_is_refused_even_with_accept_new(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    assert up(overlay, endpoint.target, "--accept-new").returncode == 0
    overlay.down()
    endpoint.program.stop()
    overlay.server_key.unlink()
    overlay.server_key.with_suffix(".pub").unlink(missing_ok=True)
    again = overlay.serve()
    line = line_of(up(overlay, again.target, "--accept-new"), 255)
    assert "changed" in line


def test_login_key_that_the_server_does_not_know(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    overlay.authorized_keys.write_text("")
    assert "alice" in line_of(overlay.up(endpoint, check=False), 255)
    overlay.is_up = False


def test_identity_file_missing_unreadable_or_too_open(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()

    def with_key(path: str) -> str:
        argv = ("up", endpoint.target, *endpoint.pin, "-i", path)
        return line_of(overlay.cli(*argv, check=False), 78)

    missing = str(lab.alice.home / "missing")
    assert missing in with_key(missing)
    overlay.identity.chmod(0o644)
    line = with_key(str(overlay.identity))
    assert "chmod 600" in line
    overlay.identity.chmod(0o600)


def test_server_key_missing_or_too_open(lab: Lab, overlay: Overlay) -> None:
    key = lab.service.home / "identity"
    argv = [PROGRAM, "server", "--key", key, "--authorized-keys", overlay.authorized_keys]
    line = line_of(lab.server.run(argv, user=lab.service, check=False), 78)
    assert "overlay-vpn keygen" in line
    lab.server.run([PROGRAM, "keygen", key], user=lab.service)
    key.chmod(0o640)
    line = line_of(lab.server.run(argv, user=lab.service, check=False), 78)
    assert "chmod 600" in line


def test_keygen_touches_no_key_that_is_there(lab: Lab, overlay: Overlay) -> None:
    key = lab.service.home / "identity"
    lab.server.run([PROGRAM, "keygen", key], user=lab.service)
    before = key.read_bytes()
    line_of(lab.server.run([PROGRAM, "keygen", key], user=lab.service, check=False), 78)
    assert key.read_bytes() == before


def test_port_already_used(lab: Lab, overlay: Overlay) -> None:
    overlay.serve()
    argv = [PROGRAM, "server", "--key", overlay.server_key]
    argv += ["--authorized-keys", overlay.authorized_keys, "--listen", f"{SERVER.v4}:{PORT}"]
    line = line_of(lab.server.run(argv, user=lab.service, check=False), 255)
    assert str(PORT) in line
    assert "in use" in line


def test_tun_device_missing(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", hide, "sh", *overlay.up_command(endpoint)]
    line = line_of(lab.app.run(argv, env=overlay.sudo, check=False), 78)
    assert "/dev/net/tun" in line
    assert "modprobe tun" in line


def test_without_cap_net_admin(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    drop = ["capsh", "--drop=cap_net_admin", "--", "-c", 'exec "$@"', "sh"]
    done = lab.app.run([*drop, *overlay.up_command(endpoint)], env=overlay.sudo, check=False)
    assert "CAP_NET_ADMIN" in line_of(done, 77)


def test_as_a_user_without_sudo(lab: Lab, overlay: Overlay) -> None:
    if not lab.is_multi_user:
        pytest.skip("needs other users")
    done = lab.app.run(overlay.up_command(overlay.serve()), user=lab.alice, check=False)
    assert "sudo" in line_of(done, 77)


def test_recover_while_up_is_refused_and_harmless(lab: Lab, overlay: Overlay) -> None:
    overlay.up(overlay.serve())
    assert "down" in line_of(overlay.cli("recover", check=False), 1)
    assert overlay.status()["state"] == "connected"


def test_another_user_may_not_see_open_or_end_it(lab: Lab, overlay: Overlay) -> None:
    if not lab.is_multi_user:
        pytest.skip("needs other users")
    overlay.up(overlay.serve(), "--kill-switch")
    for words in (["status"], ["status", "--json"], ["pause", "--for", "1m"], ["down"]):
        done = lab.app.run([PROGRAM, *words], user=lab.service, check=False)
        assert "another user" in line_of(done, 77)
        assert done.stdout == ""
    found = overlay.status()
    assert (found["state"], found["paused_s"]) == ("connected", 0)
    assert lab.app.run([PROGRAM, "down"], user=lab.alice).returncode == 0
    overlay.is_up = False


def test_errors_say_more_when_asked(overlay: Overlay) -> None:
    done = overlay.cli("-v", "up", "host:0", check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_version_and_help(overlay: Overlay) -> None:
    assert re.fullmatch(r"overlay-vpn, version \d+\.\d+\.\d+\n", overlay.cli("--version").stdout)
    assert "up " in overlay.cli("--help").stdout
