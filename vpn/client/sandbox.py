"""How the client confines itself, and what it says where the kernel cannot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shim.protocol.common import Missing

_WARNINGS: Final = {
    Missing.LANDLOCK: "no Landlock in this kernel: file permissions alone keep files from a part "
    "that is taken over",
    Missing.SECCOMP: "no system call filter for this kernel or machine: a gate that is taken over "
    "can make every call that its user can",
}


def warnings(missing: Iterable[Missing]) -> tuple[str, ...]:
    """Return a line for each feature of the kernel that had to be done without."""
    return tuple(_WARNINGS[feature] for feature in missing)
