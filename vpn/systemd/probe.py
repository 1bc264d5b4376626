"""`python -I -B -m vpn.systemd.probe`: the modules and libraries of a server as JSON.

A server and a session with it are run in this process, over memory, and then the kernel and the
interpreter are asked what that took (proc(5), maps). Nothing is guessed from names of packages.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Final

import msgspec
import uvloop

_MODULES: Final = (
    "vpn.cli.main",
    "vpn.cli.server",
    "vpn.server.preflight",
    "vpn.transport.quic.transport",
)


class Loaded(msgspec.Struct, frozen=True):
    """The search path of modules, their files, and all shared objects."""

    path: tuple[str, ...]
    modules: tuple[str, ...]
    objects: tuple[str, ...]


def main() -> None:
    """Print what was loaded."""
    uvloop.run(_serve_once())
    for name in _MODULES:
        importlib.import_module(name)
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    loaded = Loaded(
        tuple(sys.path),
        tuple(sorted(file for file in files if file)),
        tuple(sorted(file for file in mapped if Path(file).suffix == ".so" or ".so." in file)),
    )
    sys.stdout.buffer.write(msgspec.json.encode(loaded))


async def _serve_once() -> None:
    from vpn.embedded import EmbeddedConnector

    connector = EmbeddedConnector()
    session = await connector.connect()
    await asyncio.get_running_loop().getaddrinfo("localhost", 0)
    await session.close()
    await connector.close()


if __name__ == "__main__":
    main()
