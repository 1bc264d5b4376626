"""`overlay-vpn recover`: undo what a killed instance could not."""

from __future__ import annotations

import os

import click

from vpn.client.shim import start
from vpn.errors import NotPermittedError, OverlayError


@click.command("recover")
def command() -> None:
    """Undo what is left of an instance that was killed. Running it twice is harmless."""
    undo()


def undo() -> None:
    """Undo what is left, the kill switch included. Raises OverlayError, NotPermittedError."""
    if os.geteuid() != 0:
        raise NotPermittedError("undoing changes routing rules; run 'sudo overlay-vpn recover'")
    status = os.waitstatus_to_exitcode(os.waitpid(start.spawn("shim.launcher.recover", {}), 0)[1])
    if status == start.BUSY:
        raise OverlayError("overlay-vpn is up here, nothing is left over; use 'overlay-vpn down'")
    if status != 0:
        raise OverlayError("not everything could be undone; see the line above")
