"""`overlay-vpn up`: route this machine's traffic through a server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shim.protocol.gate import MAX_SUFFIXES
from vpn.cli import detach
from vpn.cli.options import Access, access
from vpn.client.shim import start
from vpn.config.routes import parse_routes
from vpn.config.target import parse_target
from vpn.errors import UsageError
from vpn.linux import privileges

if TYPE_CHECKING:
    from vpn.client.up import Settings


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
    access: Access,
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
    who = privileges.invoking_user(os.environ)
    names = chosen.names(access.hosts)

    def settings() -> Settings:
        from vpn.client.up import Settings

        login = access.login(parsed, who)
        return Settings(
            parsed,
            chosen,
            login,
            access.dns,
            access.dns_server,
            access.hosts,
            access.datagrams,
            kill_switch=kill_switch,
            lan=lan != "block",
        )

    log = who.home / ".local" / "state" / "overlay-vpn" / "client.log"
    if foreground:
        _run(who, names, settings, lambda: click.echo("connected"))
    else:
        detach.detach(lambda ready: _run(who, names, settings, ready, log))


def _run(
    who: privileges.LocalUser,
    names: tuple[str, ...] | None,
    settings: Callable[[], Settings],
    ready: Callable[[], None],
    log: Path | None = None,
) -> None:
    # They start while this process imports what it needs.
    ours, monitor = start.monitor()
    host, announcer = (None, None) if names is None else start.host_dns(names)

    try:
        import uvloop

        from vpn.client import sandbox, up

        privileges.become(who)
        privileges.allow_many_files()
        os.chdir("/")
        chosen = settings()
        output = None if log is None else detach.open_log(log)
        missing = sandbox.confine(chosen.login)

        def on_ready() -> None:
            ready()
            if output is not None:
                detach.redirect(output)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(up.run(chosen, ours, host, missing, on_ready))
    finally:
        for link, child in ((host, announcer), (ours, monitor)):
            with contextlib.suppress(OSError):
                if link is not None:
                    link.close()
            if child is not None:
                # Its parent is told when everything is as before.
                os.waitpid(child, 0)
