"""The software version that both sides send first (RFC 4253, section 4.2)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    _number = version("overlay-vpn")
except PackageNotFoundError:  # run from a source tree
    _number = "0"

VERSION = f"overlay-vpn_{_number}"
OVERLAY_PREFIX = "SSH-2.0-overlay-vpn_"
