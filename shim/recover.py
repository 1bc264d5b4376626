"""`python -I -B -m shim.recover`: undo what a killed instance left. Twice is harmless.

With `--keep-kill-switch` only if nothing is cut off: for a service manager, after a crash.
"""

from __future__ import annotations

import sys
from typing import Final

from shim.monitor.netlink import Netlink
from shim.warden.state import BusyError, State

BUSY: Final = 75


def main() -> int:
    """Undo, and return an exit status: 0, 1 if something remains, 75 while an instance runs."""
    try:
        state = State()
    except BusyError:
        return BUSY
    except OSError as error:
        print(f"overlay-vpn: cannot open the state directory: {error}", file=sys.stderr)
        return 1
    if state.journal.is_guarded and "--keep-kill-switch" in sys.argv[1:]:
        return 0
    try:
        state.journal.undo(Netlink())
    except OSError as error:
        print(f"overlay-vpn: cannot undo a routing rule: {error}", file=sys.stderr)
        return 1
    state.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
