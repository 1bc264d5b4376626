"""Faults of the shim in words for people: what failed, where, and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

from shim.protocol.common import Failed, Fault
from vpn.errors import ConfigurationError, NotPermittedError, OverlayError


def explain(failed: Failed) -> OverlayError:
    """Return the error for a fault of the shim: what failed, where, and what to do."""
    reason = f" ({os.strerror(failed.errno)})" if failed.errno else ""
    match failed.fault:
        case Fault.BUSY:
            return OverlayError("overlay-vpn is already up here; run 'overlay-vpn down' first")
        case Fault.POLICY:
            return NotPermittedError(
                "the policy of this machine does not permit it; have root add you, or what you "
                "route, to /etc/overlay-vpn/shim.toml, or run it with sudo"
            )
        case Fault.NO_TUN:
            return ConfigurationError(
                f"there is no TUN device at /dev/net/tun{reason}; run 'modprobe tun', or give "
                "the container the device"
            )
        case Fault.TUN_CLOSED:
            return ConfigurationError(
                f"/dev/net/tun may not be used{reason}; run 'chmod 0666 /dev/net/tun' as root, "
                "as distributions have it, or allow the container the device"
            )
        case Fault.NOT_PERMITTED:
            return NotPermittedError(
                f"the network may not be changed here{reason}; run it with sudo, and in a "
                "container with CAP_NET_ADMIN"
            )
        case Fault.NO_NAMESPACE:
            return ConfigurationError(f"no user namespace can be made{reason}; {_closed_by()}")
        case Fault.RESTRICTED:
            return ConfigurationError(
                f"user namespaces have no rights here{reason}; install the profile of "
                "packaging/apparmor, or allow the container to mount"
            )
        case Fault.MOUNT:
            return ConfigurationError(
                f"the command's file system cannot be prepared{reason}; in a container, allow it "
                "to mount"
            )
        case Fault.NETLINK:
            return OverlayError(
                f"the network cannot be set up{reason}; run 'overlay-vpn recover', then again"
            )
        case Fault.GATE:
            return OverlayError("the part that reads packets did not start; run it again")


def _closed_by() -> str:
    """Return what to do about the setting that forbids user namespaces, as far as it is known."""
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return "run 'sysctl kernel.unprivileged_userns_clone=1' as root"
    if _setting("user/max_user_namespaces") == "0":
        return "run 'sysctl user.max_user_namespaces=10000' as root"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "install the profile of packaging/apparmor"
    return "raise user.max_user_namespaces, or allow the container to make them (seccomp)"


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
