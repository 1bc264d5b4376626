"""What each process of the shim may call: the sets that the code declares, as it joins them."""

from __future__ import annotations

from shim.gate import keeper
from shim.gate import process as gate
from shim.hostdns import service as hostdns
from shim.monitor import process as monitor
from shim.sandbox import seccomp
from shim.unshare import __main__ as namespace
from shim.warden import process as warden

DECLARED = {
    "warden": warden.SYSCALLS,
    "monitor": monitor.PROFILE.syscalls,
    "keeper": keeper.PROFILE.syscalls,
    "gate": gate.SYSCALLS,
    "hostdns": hostdns.SYSCALLS,
    "namespace": namespace.PROFILE.syscalls,
}
ROLES = {name: syscalls | seccomp.SYSCALLS for name, syscalls in DECLARED.items()}
