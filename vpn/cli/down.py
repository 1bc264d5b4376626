"""`overlay-vpn down`: the end of the tunnel and of the kill switch."""

from __future__ import annotations

import os
import signal

import click

from vpn.cli import recover
from vpn.control import client as control
from vpn.control.client_connection import not_permitted
from vpn.errors import NotPermittedError, OverlayError


@click.command("down")
def command() -> None:
    """Take the tunnel and the kill switch down; the network is as before."""
    try:
        if control.stop():
            return
    except NotPermittedError:
        raise
    except OverlayError:
        if os.geteuid() != 0:
            raise
    _end_owner()
    if control.is_blocked():
        recover.undo()


def _end_owner() -> None:
    """Terminate the process that undoes every change when it exits: the client does not answer."""
    pid = control.owner()
    if not pid:
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has exited in between
    except PermissionError:
        raise not_permitted() from None
    control.wait_until_gone(10.0)
