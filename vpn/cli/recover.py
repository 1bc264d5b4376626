"""`overlay-vpn recover`: the removal of what a killed instance has left."""

from __future__ import annotations

import os

import click

from vpn.client.shim import start
from vpn.errors import NotPermittedError, OverlayError


@click.command("recover")
def command() -> None:
    """Undo the changes that a killed instance has left; harmless if there are none."""
    undo()


def undo() -> None:
    """Undo all changes that are left, the kill switch included. Raises OverlayError."""
    if os.geteuid() != 0:
        raise NotPermittedError("this changes routing rules; run 'sudo overlay-vpn recover'")
    status = os.waitstatus_to_exitcode(os.waitpid(start.spawn("shim.launcher.recover", {}), 0)[1])
    if status == start.BUSY:
        raise OverlayError("overlay-vpn is running here; use 'overlay-vpn down'")
    if status != 0:
        raise OverlayError("some changes could not be undone; see the lines above")
