"""`overlay-vpn up`: route this machine's traffic through a server."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from shim.protocol.gate import MAX_SUFFIXES
from vpn.cli import detach
from vpn.cli.options import access
from vpn.client import up
from vpn.config.routes import parse_routes
from vpn.config.settings import SessionSettings
from vpn.config.target import parse_target
from vpn.errors import UsageError
from vpn.linux import privileges


@click.command("up")
@click.argument("target")
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="PREFIX|NAME",
    help="Route only this prefix, or this name and all below it. Repeatable; default: everything.",
)
@click.option(
    "--kill-switch",
    is_flag=True,
    help="Let nothing out beside the tunnel, whatever happens, until 'overlay-vpn down'.",
)
@click.option(
    "--lan",
    type=click.Choice(["allow", "block"]),
    help="Leave the local network reachable beside the kill switch. Default: allow.",
)
@access
@click.option("--foreground", is_flag=True, help="Stay in the foreground.")
@click.pass_obj
def command(
    verbose: bool,
    target: str,
    routes: tuple[str, ...],
    kill_switch: bool,
    lan: str | None,
    foreground: bool,
    access: SessionSettings,
) -> None:
    """Route this machine's traffic through TARGET.

    TARGET is user@host[:port] for a server of ours, or ssh://user@host[:port] for any sshd.
    Returns when the tunnel is usable; 'overlay-vpn down' takes it down.
    """
    parsed = parse_target(target)
    chosen = parse_routes(routes)
    if kill_switch and not chosen.everything:
        raise UsageError("--kill-switch is for the whole machine; leave out --route")
    if lan and not kill_switch:
        raise UsageError("--lan says what the kill switch does; add --kill-switch")
    if len(chosen.suffixes) + len(access.hosts) > MAX_SUFFIXES:
        raise UsageError(f"too many names with --route and --host: at most {MAX_SUFFIXES}")
    user = privileges.invoking_user(os.environ)
    settings = replace(
        access,
        target=replace(parsed, user=parsed.user or user.name),
        routes=chosen,
        kill_switch=kill_switch,
        lan=lan != "block",
    )
    if foreground:
        up.up(settings, user, Foreground())
    else:
        log = user.home / ".local" / "state" / "overlay-vpn" / "client.log"
        detach.detach(lambda ready: up.up(settings, user, Background(ready, log)))


class Foreground:
    """The terminal that waits for the tunnel; a `Starter`."""

    def prepare(self) -> None:
        """Do nothing: the terminal is open."""

    def ready(self) -> None:
        """Print that the tunnel is connected."""
        click.echo("connected")


class Background:
    """The parent that waits for the tunnel and exits then; a `Starter`."""

    def __init__(self, tell_parent: Callable[[], None], log: Path) -> None:
        """From `ready` on, lines go to `log`."""
        self._tell_parent = tell_parent
        self._path = log
        self._log = -1

    def prepare(self) -> None:
        """Open the log."""
        self._log = detach.open_log(self._path)

    def ready(self) -> None:
        """Let the parent exit, and leave its terminal."""
        self._tell_parent()
        detach.redirect(self._log)
