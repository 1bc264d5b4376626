"""File modes of secrets: owners, permissions, and credentials of systemd (systemd.exec(5))."""

from __future__ import annotations

import os
import stat

_CREDENTIAL = stat.S_IRUSR | stat.S_IRGRP


def is_open_to_others(status: os.stat_result, euid: int) -> bool:
    """Return whether a file is accessible to anybody but its owner, root and the user `euid`.

    A credential that systemd passes on (systemd.exec(5), LoadCredential=) may belong to root and
    name the service in an access control list: what looks like the rights of the group is then the
    mask of that list (acl(5)), and the group itself is root's.
    """
    is_roots = status.st_uid == 0 and status.st_gid == 0
    if is_roots and euid != 0 and stat.S_IMODE(status.st_mode) == _CREDENTIAL:
        return False
    return bool(status.st_mode & (stat.S_IRWXG | stat.S_IRWXO))
