"""`overlay-vpn pause`: let the traffic pass beside the tunnel for a while."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from shim.protocol.monitor import MAX_PAUSE_S
from vpn.control import client as control
from vpn.errors import OverlayError

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType[int]):
    """A whole number with a unit: 90s, 5m, 1h. Gives seconds."""

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
    "--for", "seconds", type=Duration(), required=True, help="How long: 90s, 5m, at most 1h."
)
def command(seconds: int) -> None:
    """Let everything pass beside the tunnel for a while, to log in to a hotel's network.

    The kill switch closes again by itself, whatever happens to us meanwhile. 0s ends a pause.
    """
    if not control.pause(seconds):
        raise OverlayError("overlay-vpn is not up here; there is nothing to pause")
