"""The removal of what a killed instance has left in a network; harmless when repeated."""

from __future__ import annotations

import sys
from typing import Final

from shim.launcher.host_network import HostNetwork
from shim.launcher.state_directory import BusyError, State
from shim.netlink.kernel import Netlink

BUSY: Final = 75


def undo(machine: HostNetwork, *, keep_kill_switch: bool = False) -> int:
    """Undo every recorded change. Returns 0, 1 if something remains, 75 while an instance runs.

    With `keep_kill_switch` nothing is undone while a kill switch is on.
    """
    try:
        state = State(machine.netns)
    except BusyError:
        return BUSY
    except OSError as error:
        print(f"overlay-vpn: cannot open the state directory: {error}", file=sys.stderr)
        return 1
    try:
        if state.journal.has_kill_switch and keep_kill_switch:
            return 0
        state.journal.undo(Netlink(machine.route, machine.netfilter))
        state.remove()
    except OSError as error:
        print(f"overlay-vpn: cannot undo a routing rule: {error}", file=sys.stderr)
        return 1
    finally:
        state.close()
    return 0
