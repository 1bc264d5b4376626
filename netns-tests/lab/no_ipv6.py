"""Runs a program as a kernel without IPv6 would: socket(2) does not know AF_INET6.

That is what `ipv6.disable=1` on its command line does (Documentation/networking/ipv6.rst). A
filter of system calls says it, so nobody who comes of the program can take it back.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Final

PATH: Final = Path(__file__)

# struct seccomp_data: the number of the call at 0, the lower half of the first argument at 16.
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def main() -> None:
    """Become the program that the arguments name."""
    sys.path.insert(0, str(PATH.parents[2]))
    import prctl

    from shim.sandbox import filters
    from shim.sandbox.numbers import ARCHITECTURES, NUMBERS

    number = NUMBERS["socket"][ARCHITECTURES[os.uname().machine][0]]
    program = (
        (_LOAD, 0, 0, 0),
        (_IF_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, 16),
        (_IF_EQUAL, 0, 1, socket.AF_INET6),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    )
    prctl.set_no_new_privs(1)
    if not filters.install(b"".join(filters.INSTRUCTION.pack(*one) for one in program)):
        sys.exit("this kernel has no filters of system calls")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
