"""What each process of the shim may call: the sets that the code declares, as it joins them."""

from __future__ import annotations

from shim.gate.process import gate, supervisor
from shim.launcher import process as launcher
from shim.monitor import process as monitor
from shim.namespace import __main__ as namespace
from shim.resolved import service as resolved
from shim.sandbox import seccomp

DECLARED = {
    "launcher": launcher.SYSCALLS,
    "monitor": monitor.PROFILE.syscalls,
    "supervisor": supervisor.PROFILE.syscalls,
    "gate": gate.SYSCALLS,
    "resolved": resolved.SYSCALLS,
    "namespace": namespace.PROFILE.syscalls,
}
ROLES = {name: syscalls | seccomp.SYSCALLS for name, syscalls in DECLARED.items()}
