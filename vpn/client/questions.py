"""What the command line and a running client say to each other, on a local socket of packets.

One packet asks. Both ends import this, and neither what the other one needs.
"""

from __future__ import annotations

from typing import Final

TIMEOUT_S: Final = 10.0
"""How long whoever connects may take to ask, and to read an answer."""
MAX_QUESTION: Final = 1088
"""A name of octets that have to be escaped, and a few words."""
MAX_PACKET: Final = 65536

STATUS: Final = b"status"
DOWN: Final = b"down"
PAUSE: Final = b"pause "
"""And for how many seconds."""
FLOWS: Final = b"flows"
KILL: Final = b"kill "
"""And the flow."""
CAPTURE: Final = b"capture"
DNS: Final = "dns"
WAY: Final = "way {} {}"
"""A type as a number, and a name."""
FATE: Final = "fate {} {}"
"""A port, 0 for what has none, and a host."""

DONE: Final = b"done"
NOT_PERMITTED: Final = b"not permitted"
NO_FLOW: Final = b"no flow"
BUSY: Final = b"busy"
NOT_UP: Final = b"not up"
