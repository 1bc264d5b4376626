"""A fault of the shim in words: what failed, where, and what to do about it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from shim.protocol.common import Failed, Fault
from vpn.client.shim import faults
from vpn.errors import ConfigurationError, NotPermittedError, OverlayError

KINDS = {
    Fault.BUSY: (OverlayError, "run 'overlay-vpn down' first"),
    Fault.POLICY: (NotPermittedError, "/etc/overlay-vpn/shim.toml"),
    Fault.NO_TUN: (ConfigurationError, "modprobe tun"),
    Fault.TUN_CLOSED: (ConfigurationError, "chmod 0666 /dev/net/tun"),
    Fault.NOT_PERMITTED: (NotPermittedError, "CAP_NET_ADMIN"),
    Fault.NO_NAMESPACE: (ConfigurationError, "no user namespace can be made"),
    Fault.RESTRICTED: (ConfigurationError, "packaging/apparmor"),
    Fault.MOUNT: (ConfigurationError, "allow it to mount"),
    Fault.NETLINK: (OverlayError, "overlay-vpn recover"),
    Fault.GATE: (OverlayError, "run it again"),
}


def test_every_fault_has_a_line() -> None:
    assert set(KINDS) == set(Fault)


@pytest.mark.parametrize("fault", KINDS, ids=str)
def test_fault_is_an_error_of_its_kind(fault: Fault) -> None:
    kind, words = KINDS[fault]
    error = faults.explain(Failed(fault, 0))
    assert type(error) is kind
    assert words in str(error)
    assert "(" not in str(error).replace("(seccomp)", "")


def test_fault_with_an_error_number_says_it() -> None:
    assert "(Operation not permitted)" in str(faults.explain(Failed(Fault.NETLINK, errno.EPERM)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernel/unprivileged_userns_clone": "0"}, "sysctl kernel.unprivileged_userns_clone=1"),
        ({"user/max_user_namespaces": "0"}, "sysctl user.max_user_namespaces=10000"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, "packaging/apparmor"),
        ({"user/max_user_namespaces": "99"}, "(seccomp)"),
        ({}, "(seccomp)"),
    ],
)
def test_closed_user_namespaces_are_explained_by_the_setting(
    settings: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in settings.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    monkeypatch.setattr(faults, "Path", lambda root, name: tmp_path / name)
    assert words in str(faults.explain(Failed(Fault.NO_NAMESPACE, 0)))
