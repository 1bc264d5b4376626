"""`python -I -B -m shim.launcher.recover`: undoes what a killed instance left.

The shim as a service does the same whenever it starts, but for the kill switch.
"""

from __future__ import annotations

import sys

from shim.launcher import host_network
from shim.launcher.undo import undo

if __name__ == "__main__":
    sys.exit(undo(host_network.opened()))
