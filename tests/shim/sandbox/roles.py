"""What each process of the shim may call: the sets that the code declares, as it joins them."""

from __future__ import annotations

from shim.gate.process import gate, supervisor
from shim.launcher import process as warden
from shim.monitor import process as monitor
from shim.namespace import __main__ as namespace
from shim.resolved import service as hostdns
from shim.sandbox import seccomp

DECLARED = {
    "warden": warden.SYSCALLS,
    "monitor": monitor.PROFILE.syscalls,
    "keeper": supervisor.PROFILE.syscalls,
    "gate": gate.SYSCALLS,
    "hostdns": hostdns.SYSCALLS,
    "namespace": namespace.PROFILE.syscalls,
}
ROLES = {name: syscalls | seccomp.SYSCALLS for name, syscalls in DECLARED.items()}
