"""A key file is private, or it is a credential that systemd passes on."""

from __future__ import annotations

import os
import stat

import pytest

from vpn.linux.secret_files import is_open_to_others


def file_of(uid: int, gid: int, mode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_own_file_is_private(mode: int) -> None:
    assert not is_open_to_others(file_of(1000, 1000, mode), 1000)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o444, 0o440])
def test_own_file_with_rights_for_others_is_open(mode: int) -> None:
    assert is_open_to_others(file_of(1000, 1000, mode), 1000)


def test_credential_with_an_access_control_list_is_private() -> None:
    assert not is_open_to_others(file_of(0, 0, 0o440), 61200)


@pytest.mark.parametrize(
    ("gid", "mode", "euid"), [(100, 0o440, 61200), (0, 0o444, 61200), (0, 0o640, 0), (0, 0o440, 0)]
)
def test_what_only_resembles_a_credential_is_open(gid: int, mode: int, euid: int) -> None:
    assert is_open_to_others(file_of(0, gid, mode), euid)
