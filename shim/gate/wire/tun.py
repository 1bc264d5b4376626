"""TUN devices with segmentation offload: one read is up to 64 KiB, and no payload is summed.

Every packet is preceded by a `virtio_net_hdr` of 10 bytes (virtio 1.2 §5.1.6, without
`num_buffers`), which says where a checksum is still to be filled in and how to segment. Passed on
verbatim to another TUN device it keeps its meaning, so the gate need not interpret it.

Source: linux/if_tun.h, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

CLONE_DEVICE: Final = "/dev/net/tun"

VNET_HEADER_BYTES: Final = 10
NO_OFFLOAD: Final = bytes(VNET_HEADER_BYTES)
"""The header of a packet that is complete: nothing to segment, checksums filled in."""

MAX_PACKET_BYTES: Final = 65535
READ_BYTES: Final = VNET_HEADER_BYTES + MAX_PACKET_BYTES

_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_FLAGS: Final = 0x0001 | 0x1000 | 0x4000
"""IFF_TUN, IFF_NO_PI, IFF_VNET_HDR."""
_OFFLOADS: Final = 0x01 | 0x02 | 0x04 | 0x08
"""TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN."""


def create(name: str) -> int:
    """Create the TUN device `name` in this network namespace and return its descriptor.

    It is not persistent: it dies, with its routes, when the last copy of the descriptor closes.
    Raises OSError: ENOENT or ENODEV without the driver, EACCES or EPERM without permission,
    EBUSY when the name is taken.
    """
    fd = os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _FLAGS))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    except OSError:
        os.close(fd)
        raise
    return fd
