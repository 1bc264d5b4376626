"""`overlay-vpn server`: serve clients until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vpn.config.target import QUIC_PORT, parse_listen
from vpn.config.xdg import AUTHORIZED_KEYS, IDENTITY
from vpn.linux import privileges
from vpn.transport.base import Address

if TYPE_CHECKING:
    from vpn.identity import Identity
    from vpn.server.app import Server

DRAIN_S: Final = 10.0
"""The time that flows have to end after the first signal; a second one ends them at once."""


@click.command("server")
@click.option(
    "--listen",
    default=f"[::]:{QUIC_PORT}",
    show_default=True,
    metavar="ADDRESS",
    help="Listen on this address, as HOST[:PORT].",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    default=IDENTITY,
    help="The identity file, the host key of the server. Default: ~/.config/overlay-vpn/identity",
)
@click.option(
    "--authorized-keys",
    type=click.Path(path_type=Path),
    default=AUTHORIZED_KEYS,
    help="The keys that may log in, in the format of sshd(8). Default: ~/.ssh/authorized_keys",
)
def command(listen: str, key: Path, authorized_keys: Path) -> None:
    """Serve clients. Needs no privileges, and never runs a command for a client."""
    import uvloop

    from vpn import identity
    from vpn.server import preflight

    privileges.allow_many_files()
    address = parse_listen(listen)
    preflight.check()
    loaded = identity.load(key)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(loaded, address, authorized_keys))


async def _serve(key: Identity, address: Address, authorized_keys: Path) -> None:
    from vpn.server.app import Server
    from vpn.ssh.login.authorized_files import AuthorizedFiles
    from vpn.systemd.notify import READY, STOPPING, Notifier, status
    from vpn.transport.base import Listening
    from vpn.transport.registry import load

    notifier = Notifier()
    notifier.keep_alive()
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    listening = Listening(address, key.seed)
    server = await Server.start(load("quic"), listening, AuthorizedFiles([authorized_keys]))
    _announce(key, server)
    notifier.send(READY, status(f"listening on {server.address}/udp"))
    await signals.get()
    notifier.send(STOPPING, status(f"waiting for {server.flow_count} flows to end"))
    draining = asyncio.create_task(server.close(DRAIN_S))
    again = asyncio.create_task(signals.get())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        await server.close()  # tells the clients, which need not wait for a time-out


def _announce(key: Identity, server: Server) -> None:
    where = Address(_reachable(server.address.host), server.address.port)
    click.echo(f"listening on {server.address}/udp, host key {key.fingerprint}")
    click.echo("a client whose key is authorized connects with:")
    click.echo(f"  sudo overlay-vpn up {where} --host-key {key.fingerprint}")


def _reachable(host: str) -> str:
    """Return an address at which others may reach a listener on `host`.

    For a listener on all addresses that is the one that this machine would itself use to reach
    the world; connecting a UDP socket asks for it without sending anything.
    """
    if host not in ("::", "0.0.0.0"):
        return host
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far, 9))
            return str(sock.getsockname()[0])
    return socket.gethostname()
