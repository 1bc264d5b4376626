"""The server's end of SSH sessions: login by key, then flows, and nothing else.

Theory of operation
-------------------
`SshAcceptor.protocol` makes the protocol for each accepted stream; a session lives as long as its
stream. What asyncssh would allow by default is refused here one by one: passwords, shells,
commands, subsystems, terminals, forwarded ports and sockets, agents, X11, TUN devices. There is
one way in (public keys and OpenSSH user certificates of `authorized_keys`) and one thing to do
(`direct-tcpip`). The user name means nothing by itself, since all flows are the server's own;
with a certificate it must be one of the principals.

asyncssh counts no login attempts, accepts SHA-1 signatures and reads its configuration again for
each user name; the overrides below correct that.

One line is logged, for fail2ban and the like, when a client has failed to log in and goes away.
It names the address and port it came from, and no user, key or destination is ever logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, cast

import asyncssh
from asyncssh.auth_keys import SSHAuthorizedKeys
from asyncssh.connection import SSHServerConnection, SSHServerConnectionOptions
from asyncssh.constants import (
    DISC_BY_APPLICATION,
    DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
)
from asyncssh.misc import ChannelOpenError, DisconnectError
from asyncssh.public_key import (
    KeyImportError,
    SSHKey,
    SSHOpenSSHCertificate,
    decode_ssh_certificate,
)
from typing_extensions import override

from vpn.protocol.failure import Failure, OpenFailed
from vpn.ssh import algorithms
from vpn.ssh.login.authorized_files import Authorized
from vpn.ssh.login.authorized_keys import AuthorizedKeys, Entry
from vpn.ssh.login.grant import Grant
from vpn.ssh.login.login import Login
from vpn.ssh.open_failure import to_wire
from vpn.ssh.session.carrier import Carrier
from vpn.ssh.session.channel import Channel
from vpn.ssh.session.connection import FlowConnection
from vpn.ssh.session.startups import Startups
from vpn.ssh.trust.certificates import is_accepted, is_weakly_signed
from vpn.ssh.version import VERSION

logger = logging.getLogger(__name__)

LOGIN_TIMEOUT_S = 10.0
GRANT = "grant"  # the key option that carries the grant of a login
MAX_ATTEMPTS = 10  # keys a client may offer; each costs one signature at most
GOODBYE_S = 0.5  # for SSH_MSG_DISCONNECT to be sent
KEEPALIVE_S = 15.0
KEEPALIVE_PROBES = 3

OpenFlow = Callable[[Login, str, int], Awaitable[asyncio.Protocol]]
"""Connects to a destination for a login; returns the protocol of its channel. Raises OpenFailed."""


class SshAcceptor:
    """Accepts SSH sessions, with one host key and one set of authorized keys."""

    def __init__(self, host_key: SSHKey, authorized: Authorized, open_flow: OpenFlow) -> None:
        self._authorized = authorized
        self._open_flow = open_flow
        self._startups: Startups[_Connection] = Startups()
        self._sessions: set[_Connection] = set()
        self._carriers: set[Carrier] = set()
        self._is_draining = False
        self._changed = asyncio.Event()
        self._options = SSHServerConnectionOptions(
            server_factory=lambda: _Callbacks(self),
            server_version=VERSION,
            allow_pty=False,
            agent_forwarding=False,
            server_host_keys=[host_key],
            authorized_client_keys=None,  # set for each login
            **algorithms.OPTIONS,
            encryption_algs=algorithms.SERVER_CIPHERS,
            login_timeout=LOGIN_TIMEOUT_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVE_PROBES,
        )

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol for one accepted stream."""
        if self._is_draining:
            return _Closed()
        connection = _Connection(asyncio.get_running_loop(), self._options)
        connection.acceptor = self
        carrier = Carrier(connection, connection.pressure, self._on_lost)
        self._carriers.add(carrier)
        return carrier

    @property
    def flow_count(self) -> int:
        """How many flows are open, or being opened, in all sessions."""
        return sum(session.flow_count for session in self._sessions)

    async def close(self, drain_s: float) -> None:
        """Accept no more, wait up to `drain_s` for the flows to end, then end all sessions."""
        self._is_draining = True
        await self._wait_for(lambda: not self.flow_count, drain_s)
        for session in list(self._sessions):
            session.disconnect(DISC_BY_APPLICATION, "the server stops")
        for connection in self._startups.waiting():
            connection.abort()
        await self._wait_for(lambda: not self._carriers, GOODBYE_S)

    async def _wait_for(self, is_true: Callable[[], bool], timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_true():
                    self._changed.clear()
                    await self._changed.wait()

    def _on_lost(self, carrier: Carrier) -> None:
        self._carriers.discard(carrier)
        self._changed.set()

    def on_arrival(self, connection: _Connection) -> None:
        """Note that a client has connected; beyond the limit, close the oldest without a login."""
        evicted = self._startups.enter(connection)
        if evicted is not None:
            evicted.abort()

    def authorized_keys(self) -> AuthorizedKeys:
        """Return the authorized keys as they are now."""
        return self._authorized.read()

    def on_login(self, connection: _Connection) -> None:
        """Note that a client has logged in."""
        self._startups.leave(connection)
        self._sessions.add(connection)

    def on_end(self, connection: _Connection) -> None:
        """Note that a connection has ended, logged in or not."""
        self._startups.leave(connection)
        self._sessions.discard(connection)

    def on_flow_end(self) -> None:
        """Note that a flow has ended."""
        self._changed.set()

    async def open(self, login: Login, host: str, port: int) -> asyncio.Protocol:
        """Open a flow if it is granted. Raises ChannelOpenError."""
        try:
            if self._is_draining:
                raise OpenFailed(Failure.UNAVAILABLE, "the server is stopping")
            rule = login.refusal(host, port)
            if rule is not None:
                raise OpenFailed(Failure.POLICY, rule)
            return await self._open_flow(login, host, port)
        except OpenFailed as failed:
            raise ChannelOpenError(*to_wire(failed)) from None


class _Connection(FlowConnection, SSHServerConnection):
    """asyncssh's server connection with the checks it lacks."""

    acceptor: SshAcceptor
    failures = 0

    @property
    def flow_count(self) -> int:
        return len(self._flows)

    def remove_channel(self, recv_chan: int) -> None:
        """Take a channel's number back."""
        super().remove_channel(recv_chan)
        self.acceptor.on_flow_end()

    async def reload_config(self) -> None:
        """Do nothing: there are no configuration files. Called for each user name."""

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Return whether a key may log in, and its signature, if there is one, is valid."""
        if msg and not is_accepted(signature):
            return False
        try:
            certificate = decode_ssh_certificate(key_data)
        except KeyImportError:
            pass
        else:
            if not isinstance(certificate, SSHOpenSSHCertificate):
                return False
            if is_weakly_signed(certificate):
                return False
        return await super().validate_public_key(username, key_data, msg, signature)

    def send_userauth_failure(self, partial_success: bool) -> None:
        """Refuse a login attempt; the last one ends the connection."""
        self.failures += 1
        if self.failures > MAX_ATTEMPTS:
            raise DisconnectError(
                DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )
        super().send_userauth_failure(partial_success)


class _Callbacks(asyncssh.SSHServer):
    """asyncssh's callbacks for one connection."""

    _connection: _Connection
    _source: tuple[Any, ...]

    def __init__(self, acceptor: SshAcceptor) -> None:
        self._acceptor = acceptor
        self._is_logged_in = False
        self._login: Login | None = None

    @override
    def connection_made(self, conn: SSHServerConnection) -> None:
        self._connection = cast(_Connection, conn)
        self._source = conn.get_extra_info("peername") or ("unknown", 0)
        self._acceptor.on_arrival(self._connection)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; log that it failed to log in, if it tried."""
        self._acceptor.on_end(self._connection)
        if self._connection.failures and not self._is_logged_in:
            logger.warning("authentication failed from %s port %d", *self._source[:2])

    def begin_auth(self, username: str) -> bool:
        """Read the authorized keys anew, and require a login."""
        keys = self._acceptor.authorized_keys()
        self._connection.set_authorized_keys(_Lines(keys, username))
        return True

    @override
    def auth_completed(self) -> None:
        self._is_logged_in = True
        self._acceptor.on_login(self._connection)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Any:
        """Return the channel for a flow, and the coroutine that opens it."""
        if self._login is None:
            grant = self._connection.get_key_option(GRANT)
            if not isinstance(grant, Grant):
                raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "POLICY:no-grant")
            self._login = Login(grant)
        channel = Channel(self._connection, asyncio.Protocol())
        return channel, self._acceptor.open(self._login, dest_host, dest_port)

    def session_requested(self) -> NoReturn:
        """Refuse shells, commands, subsystems, and with them terminals, agents and X11."""
        _prohibit()

    def unix_connection_requested(self, dest_path: str) -> NoReturn:
        """Refuse Unix sockets of this machine."""
        _prohibit()

    def tun_requested(self, unit: int | None) -> NoReturn:
        """Refuse TUN devices of this machine."""
        _prohibit()

    def tap_requested(self, unit: int | None) -> NoReturn:
        """Refuse TAP devices of this machine."""
        _prohibit()

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """Refuse to listen on ports."""
        return False

    def unix_server_requested(self, listen_path: str) -> bool:
        """Refuse to listen on Unix sockets."""
        return False


class _Lines(SSHAuthorizedKeys):
    """The authorized keys of a login, in the form in which asyncssh asks for them."""

    def __init__(self, keys: AuthorizedKeys, user: str) -> None:
        super().__init__()
        self._keys = keys
        self._user = user

    def validate(
        self,
        key: SSHKey,
        client_host: str,
        client_addr: str,
        cert_principals: Sequence[str] | None = None,
        ca: bool = False,
    ) -> dict[str, object] | None:
        """Return the options of the line for a key or authority, or None."""
        blob, now = key.public_data, time.time()
        entry: Entry | None
        if ca:
            entry = self._keys.find_authority(
                blob, cert_principals or (), self._user, client_addr, now
            )
        else:
            entry = self._keys.find(blob, client_addr, now)
        if entry is None:
            return None
        options: dict[str, object] = {GRANT: entry.grant}
        if entry.principals is not None:
            options["principals"] = entry.principals  # then asyncssh asks no more for the user
        if not entry.needs_touch:
            options["no-touch-required"] = True
        return options


class _Closed(asyncio.Protocol):
    """The protocol of a stream that is accepted while the server stops: it is closed."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _prohibit() -> NoReturn:
    raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "POLICY:channel-type")
