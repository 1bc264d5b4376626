"""The numbers of system calls as the kernel's own headers have them."""

from __future__ import annotations

import re
from pathlib import Path

_DEFINE = re.compile(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", re.MULTILINE)
_FILES = {
    "x86_64": ["x86_64-linux-gnu/asm/unistd_64.h", "asm/unistd_64.h"],
    "aarch64": ["asm-generic/unistd.h"],
}
# <asm-generic/unistd.h> names these by what they are everywhere else.
_OTHER_NAMES = {"fstatat": "newfstatat"}


def numbers(machine: str) -> dict[str, int]:
    """Return the number of every system call of a machine by its name."""
    paths = [Path("/usr/include", name) for name in _FILES[machine]]
    text = next(path for path in paths if path.exists()).read_text()
    found = {name: int(number) for name, number in _DEFINE.findall(text)}
    return {_OTHER_NAMES.get(name, name): number for name, number in found.items()}
