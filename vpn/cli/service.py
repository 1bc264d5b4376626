"""`overlay-vpn service`: the systemd units of the server, the shim and the client."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vpn.console import say
from vpn.errors import Exit, NotPermittedError

if TYPE_CHECKING:
    from vpn.systemd.installer import Place

_KINDS: Final = ("server", "shim", "client")
_NEXT: Final = {
    "server": "systemctl enable --now overlay-vpn-server",
    "shim": "systemd-sysusers, udevadm control --reload, systemctl stop overlay-vpn-shim.service, "
    "then systemctl enable overlay-vpn-shim.socket and systemctl restart overlay-vpn-shim.socket",
    "client": "systemctl enable --now overlay-vpn-client@USER",
}


def _kind(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("kind", type=click.Choice(_KINDS), default="server")(command)


def _root(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("/"),
        metavar="DIRECTORY",
        help="Operate on the file system tree below DIRECTORY, as systemctl --root does.",
    )(command)


@click.group("service")
def command() -> None:
    """Manage the systemd units of the server, the shim and the client."""


@command.command("print")
@_kind
def print_(kind: str) -> None:
    """Print the units that 'install' would write."""
    for path, text in _files(kind).items():
        click.echo(f"# {path}\n{text}")


@command.command("install")
@_kind
@_root
def install(kind: str, root: Path) -> None:
    """Write the units; those that are up to date are left alone.

    A unit that was edited is never overwritten: changes belong into drop-in files.
    """
    from vpn.systemd import installer

    written = installer.install(_place(root), _files(kind))
    for path in written:
        click.echo(f"wrote {path}")
    if written:
        click.echo(f"next: systemctl daemon-reload, {_NEXT[kind]}")


@command.command("uninstall")
@_kind
@_root
def uninstall(kind: str, root: Path) -> None:
    """Remove the units that 'install' wrote, and nothing else."""
    from vpn.systemd import installer

    for path in installer.uninstall(_place(root), installer.paths(kind)):
        click.echo(f"removed {path}")


@command.command("check")
@_kind
@_root
def check(kind: str, root: Path) -> int:
    """Report problems of an installed unit, such as a missing bind mount of its root."""
    from vpn.systemd import checks
    from vpn.systemd.installer import Place

    found = checks.problems(Place(root), kind)
    for line in found:
        say(line)
    return Exit.CONFIGURATION if found else Exit.OK


def _place(root: Path) -> Place:
    from vpn.systemd.installer import Place

    if root == Path("/") and os.geteuid() != 0:
        raise NotPermittedError("only root may write units; run it with sudo")
    return Place(root)


def _files(kind: str) -> dict[Path, str]:
    from vpn.systemd import closure, installer

    binds = closure.binds_for(closure.needs()) if kind == "server" else []
    return installer.files(kind, closure.interpreter(), binds)
