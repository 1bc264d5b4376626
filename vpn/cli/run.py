"""`overlay-vpn run`: one command in a network of its own, without root.

Three processes: this one is the command's parent and only waits; the client has the session; the
shim has the namespaces. The latter two start at the same time.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from shim.protocol.link import Link, LinkClosedError, Message, ViolationError
from shim.protocol.namespace import CLIENT_OF_NAMESPACE
from vpn.cli.options import access
from vpn.client import run_command
from vpn.client.shim import start
from vpn.config.forwards import parse_publication
from vpn.config.settings import SessionSettings
from vpn.config.target import Target, parse_target
from vpn.console import say
from vpn.control import client_connection
from vpn.control.messages import (
    CLIENT_OF_PARENT,
    MAX_PROBLEM,
    PARENT,
    Exited,
    Finished,
    NotReady,
    Ready,
    Run,
)
from vpn.errors import Exit, OverlayError, UsageError
from vpn.linux import namespace_processes, privileges
from vpn.policy.rules import Action, Policy, Rule, parse_rule

if TYPE_CHECKING:
    from vpn.client.session.connector import Connector

_ACTIONS: Final = {"--allow": Action.ALLOW, "--deny": Action.DENY}


class RunCommand(click.Command):
    """Takes the command after `--`, and keeps the order of --allow and --deny among each other."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what stands before `--`. Raises UsageError."""
        if "--" in args:
            end = args.index("--")
            ctx.meta["command"] = tuple(args[end + 1 :])
            ctx.meta["rules"] = _rules(args[:end])
            args = args[:end]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the words of the usage line, which ends with the command."""
        return [*super().collect_usage_pieces(ctx), "-- CMD [ARG]..."]


def _rules(words: list[str]) -> list[Rule]:
    found = []
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in _ACTIONS:
            text = value if equals else "".join(words[index + 1 : index + 2])
            found.append(parse_rule(_ACTIONS[option], text))
    return found


@click.command("run", cls=RunCommand)
@click.argument("target", required=False)
@click.option("--embedded", is_flag=True, help="Use a server of our own on this side; no TARGET.")
@click.option(
    "--allow",
    multiple=True,
    metavar="RULE",
    help="Allow a name, *.suffix or prefix, with an optional :PORT[-PORT]; nothing else then. "
    "Repeatable; the first rule that matches decides.",
)
@click.option("--deny", multiple=True, metavar="RULE", help="Deny it. Repeatable.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what was contacted and denied to this file.",
)
@click.option("--strict", is_flag=True, help="Exit with 125 if something was denied.")
@click.option(
    "--publish",
    multiple=True,
    metavar="[ADDRESS:]PORT[:PORT]",
    help="Make a port of the command reachable on this machine. Repeatable.",
)
@click.option("--host-loopback", is_flag=True, help="Reach this machine's loopback at 198.18.0.1.")
@click.option("--mask-bus", is_flag=True, help="Hide the system's D-Bus from the command.")
@access
@click.pass_context
def command(
    context: click.Context,
    target: str | None,
    embedded: bool,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    report: Path | None,
    strict: bool,
    publish: tuple[str, ...],
    host_loopback: bool,
    mask_bus: bool,
    access: SessionSettings,
) -> int:
    """Run CMD in a network of its own, whose only way out is through TARGET.

    No root is needed. The exit status is the command's; 125 if it was not started.
    """
    words: tuple[str, ...] = context.meta.get("command", ())
    if not words:
        raise UsageError("no command was given; write it after --, as in: run TARGET -- CMD")
    if embedded == (target is not None):
        raise UsageError("name either a TARGET or --embedded")
    if embedded and access.datagrams:
        raise UsageError("an embedded server needs no transport; leave out '--udp datagram'")
    settings = replace(
        access,
        target=None if target is None else _target(target),
        policy=Policy(context.meta["rules"]),
        host_loopback=host_loopback,
        publications=tuple(map(parse_publication, publish)),
        report=None if report is None else report.absolute(),
    )
    about = Run(secrets.token_hex(4), os.getpid(), settings.address_text, words, 0.0)
    return _run(settings, about, mask_bus=mask_bus, strict=strict)


def _target(text: str) -> Target:
    """Return the target with the user to log in as. Raises UsageError, ConfigurationError."""
    target = parse_target(text)
    return replace(target, user=target.user or privileges.invoking_user(os.environ).name)


def _run(settings: SessionSettings, about: Run, *, mask_bus: bool, strict: bool) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = os.fork()
    if client == 0:
        ours.close()
        _serve(settings, about, theirs, mask_bus=mask_bus)
    theirs.close()
    link = Link(ours, PARENT)
    ready, fds = _receive(link)
    if not isinstance(ready, Ready):
        os.waitpid(client, 0)
        problem = ready.problem if isinstance(ready, NotReady) else ""
        raise OverlayError(problem or "the client ended before it was ready")
    network = os.dup(fds[2])
    environment = {"OVERLAY_VPN_ID": about.id, "OVERLAY_VPN_TARGET": about.target}
    status = run_command.run(about.command, (fds[0], fds[1], fds[2]), environment, ready.search)
    with suppress(LinkClosedError):
        link.send(Exited(status))
    finished, _ = _receive(link)
    namespace_processes.end(network)
    os.waitpid(client, 0)
    if not isinstance(finished, Finished):
        return status
    if finished.problem:
        say(finished.problem)
    has_failed = finished.problem or (strict and finished.has_denied)
    return Exit.OURS if status == 0 and has_failed else status


def _receive(link: Link) -> tuple[Message | None, list[int]]:
    """Return the next message of the client and its descriptors; None once it has ended."""
    with suppress(LinkClosedError, ViolationError):
        return client_connection.receive(link)
    return None, []


def _serve(
    settings: SessionSettings, about: Run, parent: socket.socket, *, mask_bus: bool
) -> NoReturn:
    """Be the client: in a session of its own, out of the terminal's reach."""
    to_parent = Link(parent, CLIENT_OF_PARENT)
    try:
        os.setsid()
        privileges.allow_many_files()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        link, namespace = start.namespace(masks_bus=mask_bus)
        privileges.lock()

        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve_command(settings, about, to_parent, link))
        os.waitpid(namespace, 0)
    except OverlayError as error:
        _tell(to_parent, str(error))
    except Exception as error:  # nobody above reports it
        _tell(to_parent, f"unexpected {type(error).__name__}: {error}")
    finally:
        sys.stderr.flush()
        os._exit(0)


def _tell(parent: Link, problem: str) -> None:
    with suppress(LinkClosedError):
        parent.send(NotReady(problem[:MAX_PROBLEM]))


async def _serve_command(
    settings: SessionSettings, about: Run, parent: Link, link: socket.socket
) -> None:
    """Put the client of a command together, and serve. Raises OverlayError."""
    from vpn.client.run import CommandClient
    from vpn.client.shim.namespace import Namespace

    client = CommandClient(
        settings,
        about,
        connector=_connector(settings),
        namespace=Namespace(Link(link, CLIENT_OF_NAMESPACE)),
        parent=parent,
        end_processes=namespace_processes.end,
        say=say,
    )
    await client.serve()


def _connector(settings: SessionSettings) -> Connector:
    """Return the connector for the target of these settings, or for an embedded server."""
    if settings.target is None:
        from vpn.embedded import EmbeddedConnector

        return EmbeddedConnector()
    from vpn.client.session.connector import ServerConnector, credentials_for
    from vpn.transport.base import PlainSockets

    return ServerConnector(credentials_for(settings), settings, PlainSockets())
