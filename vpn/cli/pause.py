"""`overlay-vpn pause`: a time in which traffic bypasses the tunnel."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from shim.protocol.monitor import MAX_PAUSE_S
from vpn.control import client as control
from vpn.errors import OverlayError

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType[int]):
    """A whole number with a unit, such as 90s, 5m or 1h; its value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds, or fail with one line."""
        match = re.fullmatch(r"(\d{1,5})([smh])", str(value), re.ASCII)
        seconds = int(match[1]) * _UNITS_S[match[2]] if match else -1
        if not 0 <= seconds <= MAX_PAUSE_S:
            self.fail(f"{value!r} is not a time from 0s to 1h, such as 5m", param, ctx)
        return seconds


@click.command("pause")
@click.option(
    "--for", "seconds", type=Duration(), required=True, help="Duration: 90s, 5m, at most 1h."
)
def command(seconds: int) -> None:
    """Let all traffic bypass the tunnel for a while, as to log in to a captive portal.

    The kill switch closes again by itself, even if overlay-vpn is killed meanwhile. 0s ends a
    pause.
    """
    if not control.pause(seconds):
        raise OverlayError("overlay-vpn is not up here; there is nothing to pause")
