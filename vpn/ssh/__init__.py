"""SSH over one duplex stream: sessions of both sides, host keys, logins, failures on the wire.

asyncssh looks for two optional libraries when it is imported, and the standard library's way to
look is to run ldconfig, the C compiler and the linker (ctypes.util). Programs of ours run no
program: here it is imported first, and the dynamic loader alone is asked.
"""

from __future__ import annotations

import ctypes
import ctypes.util


def _loadable(name: str) -> str | None:
    """Return the file name of a library that the dynamic loader finds, or None."""
    file = f"{name if name.startswith('lib') else f'lib{name}'}.so"
    try:
        ctypes.CDLL(file)
    except OSError:
        return None
    return file


_find_library, ctypes.util.find_library = ctypes.util.find_library, _loadable
try:
    import asyncssh as asyncssh
finally:
    ctypes.util.find_library = _find_library
