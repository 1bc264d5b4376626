"""The processes of an instance on a host, by what they run."""

from __future__ import annotations

from lab.host import Host


def privileged_side(host: Host) -> list[int]:
    """Return the process ids of everything that `up` has started beside its client."""
    return sorted(one.pid for one in host.processes() if " -m shim." in one.command)
