"""A user with a key, a server of ours on any transport, a stock sshd, a destination that echoes."""

import asyncio
import contextlib
import os
import pwd
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from transport_lab import SEED, free_port

from vpn.identity import Identity
from vpn.server.app import Server
from vpn.ssh.login.authorized_files import AuthorizedFiles
from vpn.ssh.session import client
from vpn.ssh.trust import known_hosts
from vpn.ssh.trust.host_keys import HostKeys
from vpn.transport.base import Address, Dialing, Listening, PlainSockets, Transport
from vpn.transport.memory import MemoryTransport
from vpn.transport.pump import Pump
from vpn.transport.tcp import TcpTransport

SSHD = "/usr/sbin/sshd"
IDENTITY = Identity(SEED)
LOOPBACK = "127.0.0.1"


def user_name() -> str:
    """Who we are, whatever the environment says."""
    return pwd.getpwuid(os.geteuid()).pw_name


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A destination that sends back what it gets."""
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()


class Keys:
    """A user's key pair in a file, and an authorized_keys file that names it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.path = directory / "id_user"
        write_private(self.path, self.key)
        self.authorized = directory / "authorized_keys"
        self.authorize()

    @property
    def public(self) -> str:
        return public_line(self.key)

    def authorize(self, options: str = "", key: asyncssh.SSHKey | None = None) -> None:
        """Let a key in, by default the user's, and nobody else."""
        self.authorized.write_text(f"{options} {public_line(key or self.key)}\n".lstrip())
        self.authorized.chmod(0o600)


def public_line(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


def write_private(path: Path, key: asyncssh.SSHKey) -> None:
    path.write_bytes(key.export_private_key("openssh"))
    path.chmod(0o600)


def encrypt(path: Path) -> None:
    """Give a private key a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", path], check=True)


def trusting(address: Address, **changes: Any) -> HostKeys:
    """The policy that knows our server and nobody else."""
    arguments: dict[str, Any] = {"pin": IDENTITY.fingerprint, "files": ()}
    return known_hosts.policy_for(address, **(arguments | changes))


def login_with(keys: Keys, host_keys: HostKeys, **changes: Any) -> client.Credentials:
    arguments: dict[str, Any] = {
        "user": user_name(),
        "host_keys": host_keys,
        "identities": (keys.path,),
        "timeout_s": 5.0,
    }
    return client.Credentials(**(arguments | changes))


async def connect(
    transport: Transport, address: Address, login: client.Credentials
) -> client.Session:
    dialing = Dialing(address, PlainSockets(), timeout_s=5.0)
    return await client.connect(transport, dialing, login)


async def enter(transport: Transport, address: Address, keys: Keys) -> client.Session:
    """A session with the server of ours that has this address."""
    return await connect(transport, address, login_with(keys, trusting(address)))


@asynccontextmanager
async def our_server(
    keys: Keys, transport: Transport | None = None
) -> AsyncIterator[tuple[Server, Transport]]:
    """A server of ours, in memory unless told otherwise."""
    transport = transport or MemoryTransport({})
    server = await Server.start(
        transport, Listening(Address(LOOPBACK, 0), SEED), AuthorizedFiles([keys.authorized])
    )
    try:
        yield server, transport
    finally:
        await server.close()


@asynccontextmanager
async def session_of(
    keys: Keys, transport: Transport | None = None, **changes: Any
) -> AsyncIterator[client.Session]:
    """A session with a server of ours."""
    async with our_server(keys, transport) as (server, used):
        login = login_with(keys, trusting(server.address), **changes)
        session = await connect(used, server.address, login)
        try:
            yield session
        finally:
            await session.close()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A user's key and the authorized_keys file of a server."""
    return Keys(tmp_path)


@dataclass
class Sshd:
    """A running stock sshd."""

    process: subprocess.Popen[bytes]
    address: Address
    host_keys: HostKeys
    log: Path

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def started_sshd(keys: Keys, lines: Sequence[str] = (), authorized: str | None = None) -> Sshd:
    """Start sshd on a free port of the loopback, with more lines for its configuration."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists on it when root starts it
    directory = keys.directory
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    write_private(directory / "host_key", host_key)
    authorized_keys = directory / "sshd_authorized_keys"
    authorized_keys.write_text(authorized or keys.public + "\n")
    address = Address(LOOPBACK, free_port(socket.SOCK_STREAM))
    configuration = directory / "sshd_config"
    configuration.write_text(
        "\n".join(
            (
                f"ListenAddress {address}",
                f"HostKey {directory / 'host_key'}",
                f"AuthorizedKeysFile {authorized_keys}",
                "PidFile none",
                "StrictModes no",
                "UsePAM no",
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                *lines,
                "",
            )
        )
    )
    log = directory / "sshd.log"
    command = [SSHD, "-D", "-E", str(log), "-f", str(configuration)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    host_keys = known_hosts.policy_for(address, pin=host_key.get_fingerprint(), files=())
    sshd = Sshd(process, address, host_keys, log)
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((address.host, address.port)).close()
        except ConnectionRefusedError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        else:
            return sshd


@asynccontextmanager
async def session_with_sshd(keys: Keys, sshd: Sshd) -> AsyncIterator[client.Session]:
    session = await connect(TcpTransport(), sshd.address, login_with(keys, sshd.host_keys))
    try:
        yield session
    finally:
        await session.close()


@asynccontextmanager
async def destination(handler: Any) -> AsyncIterator[int]:
    """A port of the loopback where `handler(reader, writer)` answers until the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept() -> None:
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            tasks.add(asyncio.create_task(answer(accepted)))

    async def answer(accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted, limit=1 << 20)
        with contextlib.suppress(ConnectionError):
            try:
                await handler(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        tasks.add(asyncio.create_task(accept()))
        try:
            yield listener.getsockname()[1]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection: an application's, and the one that is passed to us."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


async def flow_to(
    session: client.Session, port: int, host: str = LOOPBACK
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Pump]:
    """An application's connection through a session."""
    pump = await session.open(host, port)
    application, flow = tcp_pair()
    await pump.attach(flow)
    reader, writer = await asyncio.open_connection(sock=application)
    return reader, writer, pump
