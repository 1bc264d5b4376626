"""The client's end of an SSH session: login over any transport, then flows.

Nothing is asked and nothing is read but what `Credentials` says: no ssh_config, no password, no
prompt. SSH opens no socket; only the agent's is opened here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.connection import SSHClientConnection, SSHClientConnectionOptions
from asyncssh.misc import (
    ChannelOpenError,
    ConnectionLost,
    DisconnectError,
    HostKeyNotVerifiable,
    KeyExchangeFailed,
    PermissionDenied,
)
from asyncssh.public_key import SSHKey, SSHKeyPair
from typing_extensions import override

from vpn.errors import AuthenticationError, ConfigurationError, OverlayError, TransportError
from vpn.ssh import algorithms
from vpn.ssh.login import keys
from vpn.ssh.open_failure import classify
from vpn.ssh.session.carrier import Carrier
from vpn.ssh.session.channel import Channel
from vpn.ssh.session.connection import FlowConnection
from vpn.ssh.trust import known_hosts
from vpn.ssh.trust.host_keys import HostKeys
from vpn.ssh.version import OVERLAY_PREFIX, VERSION
from vpn.transport.base import Address, Dialing, Transport
from vpn.transport.pump import Pump

KEEPALIVE_S = 5.0
# Two probes unanswered after 5 and 10 s, dead at 15 s.
KEEPALIVE_PROBES = 2
# The same after `hurry`: dead at 6 s.
HURRY_S = 2.0


@dataclass(frozen=True)
class Credentials:
    """The user to log in as, the keys to log in with, and the policy for the keys of the server."""

    user: str
    host_keys: HostKeys
    agent_path: str | None = None
    """The agent's socket (SSH_AUTH_SOCK); not used when identities are named."""
    identities: tuple[Path, ...] | SSHKey | None = None
    """The key files or the key to use, and no other; None for the agent's and the usual files."""
    new_hosts_file: Path = known_hosts.USER_FILE
    """Where a server accepted as new is remembered."""
    timeout_s: float = 15.0

    def after(self, session: Session) -> Credentials:
        """Return the credentials of the next login: a host key accepted as new is the only one."""
        return replace(self, host_keys=self.host_keys.after(session.host_key))


async def connect(transport: Transport, dialing: Dialing, login: Credentials) -> Session:
    """Connect to a server over a transport and log in.

    `login.host_keys` judges the keys of the server, at both layers. Raises ConfigurationError,
    TransportError or AuthenticationError, each one line.
    """
    files = _keys_of(login)
    address, host_keys = dialing.address, login.host_keys
    callbacks = _Callbacks(login, files)
    loop = asyncio.get_running_loop()
    options = _options(callbacks, address, login)
    options.waiter = loop.create_future()
    connections: list[_Connection] = []

    def carried() -> Carrier:
        connection = _Connection(loop, options, wait="auth")
        connection.host_keys = host_keys
        connections.append(connection)
        return Carrier(connection, connection.pressure, connection.on_stream_lost)

    stream = await transport.connect(replace(dialing, check_peer=host_keys.check_peer), carried)
    connection = connections[-1]
    try:
        if dialing.datagrams and stream.get_extra_info("datagrams") is None:
            raise ConfigurationError(
                f"there are no datagrams on the way to {address} by {transport.name}; "
                "leave out '--udp datagram'"
            )
        await options.waiter
        if host_keys.is_new(connection.host_key):
            known_hosts.add(login.new_hosts_file, host_keys.name, connection.host_key)
    except (DisconnectError, OSError) as error:
        raise _explain(error, address, login, connection, callbacks) from error
    except BaseException as error:
        connection.abort()
        if isinstance(error, OverlayError) or not isinstance(error, Exception):
            raise
        # Before the key exchange anybody on the path can send what the library trips over.
        raise TransportError(f"{address} does not speak SSH ({type(error).__name__})") from error
    return Session(connection, callbacks)


def _keys_of(login: Credentials) -> keys.KeyFiles:
    if login.identities is None:
        return keys.load_default()
    if isinstance(login.identities, SSHKey):
        return keys.of_key(login.identities)
    return keys.load_named(login.identities)


class Session:
    """A session that has logged in. The result of `closed` is the reason why it ended, one line."""

    def __init__(self, connection: _Connection, callbacks: _Callbacks) -> None:
        self._connection = connection
        self._callbacks = callbacks
        self.closed: asyncio.Future[str] = callbacks.closed
        self.host_key: SSHKey = connection.host_key
        version = str(connection.get_extra_info("server_version", ""))
        self.is_overlay_server = version.startswith(OVERLAY_PREFIX)
        self._is_in_hurry = False

    async def open(self, host: str, port: int) -> Pump:
        """Have the server connect to a name or IP literal, and return the flow.

        The flow waits until `Pump.attach` brings the local socket. Raises OpenFailed.
        Cancel it to give up.
        """
        pump = Pump()
        await self._open(host, port, pump.far)
        return pump

    async def open_stream(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Have the server connect to a destination or service, and return the streams of the flow.

        Raises OpenFailed.
        """
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        channel = await self._open(host, port, protocol)
        writer = asyncio.StreamWriter(channel, protocol, reader, asyncio.get_running_loop())
        return reader, writer

    @property
    def has_datagrams(self) -> bool:
        """Whether the connection carries datagrams next to its stream."""
        return self._connection.datagrams is not None

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        """Open a flow to a destination or service that drives `protocol`. Raises OpenFailed."""
        await self._open(host, port, protocol)

    def hurry(self) -> None:
        """Probe the server every `HURRY_S` for a while; the session ends without an answer."""
        if not self._is_in_hurry:
            self._is_in_hurry = True
            self._connection.set_keepalive(HURRY_S, KEEPALIVE_PROBES)
            hurry_s = HURRY_S * (KEEPALIVE_PROBES + 1.5)
            asyncio.get_running_loop().call_later(hurry_s, self._calm_down)

    def _calm_down(self) -> None:
        self._is_in_hurry = False
        if not self.closed.done():
            self._connection.set_keepalive(KEEPALIVE_S, KEEPALIVE_PROBES)

    async def close(self) -> None:
        """End the session; flows that are still open are reset."""
        if not self.closed.done():
            self._callbacks.on_closing()
            self._connection.close()
        await self._connection.stream_lost.wait()

    async def _open(self, host: str, port: int, protocol: asyncio.Protocol) -> Channel:
        try:
            channel = Channel(self._connection, protocol, is_close_reset=self.is_overlay_server)
            await channel.connect(host, port)
        except ChannelOpenError as error:
            raise classify(error.code, error.reason) from None
        return channel


class _Connection(FlowConnection, SSHClientConnection):
    """asyncssh's client connection, with `HostKeys` to judge the host key."""

    host_keys: HostKeys
    host_key: SSHKey
    refusal: AuthenticationError | None = None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.stream_lost = asyncio.Event()

    def on_stream_lost(self, _: object) -> None:
        """Note that the stream has ended, with everything that was written to it."""
        self.stream_lost.set()

    def validate_server_host_key(self, key_data: bytes) -> SSHKey:
        """Return the server's key, or refuse it. Called by each key exchange."""
        peer_key = self.get_extra_info("peer_key")
        try:
            self.host_key = self.host_keys.check_ssh(key_data, peer_key)
        except AuthenticationError as error:
            self.refusal = error
            raise HostKeyNotVerifiable("host key not accepted") from error
        return self.host_key


class _Callbacks(asyncssh.SSHClient):
    """asyncssh's callbacks for one connection: the keys to log in with, and its end."""

    def __init__(self, login: Credentials, files: keys.KeyFiles) -> None:
        self._login = login
        self._files = files
        self._agent: asyncssh.SSHAgentClient | None = None
        self._is_closing = False
        self._has_offered = False
        self.offered = 0
        self.encrypted = files.encrypted
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def public_key_auth_requested(self) -> Sequence[SSHKeyPair] | None:
        """Return all keys once: the agent's, unless files were named, then those in files."""
        if self._has_offered:
            return None
        self._has_offered = True
        pairs = list(self._files.pairs)
        if self._login.agent_path and self._login.identities is None:
            pairs[:0] = await self._agent_keys(self._login.agent_path)
        self.offered = len(pairs)
        return pairs or None

    async def _agent_keys(self, path: str) -> Sequence[SSHKeyPair]:
        self._agent = asyncssh.SSHAgentClient(path)
        try:
            return await self._agent.get_keys()
        except ValueError:  # not there, or not an agent: the files may do
            return ()

    @override
    def auth_completed(self) -> None:
        self._close_agent()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._close_agent()
        if not self.closed.done():
            self.closed.set_result(_reason(exc, self._is_closing))

    def on_closing(self) -> None:
        """Note that this side ends the session."""
        self._is_closing = True

    def _close_agent(self) -> None:
        if self._agent is not None:
            self._agent.close()


def _options(
    callbacks: _Callbacks, address: Address, login: Credentials
) -> SSHClientConnectionOptions:
    try:
        return SSHClientConnectionOptions(
            config=None,
            client_factory=lambda: callbacks,
            client_version=VERSION,
            host=address.host,
            port=address.port,
            username=login.user,
            known_hosts=([], [], []),  # none: `_Connection` decides
            server_host_key_algs=login.host_keys.algorithms(),
            **algorithms.OPTIONS,
            encryption_algs=algorithms.CLIENT_CIPHERS,
            client_keys=None,  # asked of `_Callbacks`
            preferred_auth=["publickey"],
            login_timeout=login.timeout_s,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVE_PROBES,
        )
    except ValueError as error:
        raise ConfigurationError(f"cannot log in as {login.user!r}: {error}") from error


def _explain(
    error: Exception,
    address: Address,
    login: Credentials,
    connection: _Connection,
    callbacks: _Callbacks,
) -> OverlayError:
    """Return the one line for a login that failed."""
    if connection.refusal is not None:
        return connection.refusal
    reason = str(error)
    if isinstance(error, PermissionDenied) or "authentication failures" in reason:
        return AuthenticationError(_denied(address, login, callbacks))
    if isinstance(error, ConnectionLost) and "imeout" in reason:
        return TransportError(f"{address} did not finish the login in {login.timeout_s:g} s")
    if connection.get_extra_info("server_version") is None:
        return TransportError(f"{address} is not an SSH server, or closed the connection")
    if isinstance(error, KeyExchangeFailed):
        return TransportError(
            f"{address} has no strong algorithm in common with this client: {reason}"
        )
    return TransportError(f"{address} ended the login: {reason or type(error).__name__}")


def _denied(address: Address, login: Credentials, callbacks: _Callbacks) -> str:
    text = f"permission denied for {login.user} at {address}: "
    if callbacks.offered:
        text += f"none of {callbacks.offered} key(s) was accepted"
    else:
        text += "there is no key to offer, in an agent or in ~/.ssh"
    if callbacks.encrypted:
        text += f"; {callbacks.encrypted} key(s) are encrypted, add them with ssh-add"
    return text


def _reason(exc: Exception | None, is_closing: bool) -> str:
    if is_closing:
        return "closed"
    if exc is None:
        return "the server closed the session"
    if isinstance(exc, ConnectionLost) and "keepalive" in str(exc):
        return "the server does not answer any more"
    return f"the connection broke: {str(exc) or type(exc).__name__}"
