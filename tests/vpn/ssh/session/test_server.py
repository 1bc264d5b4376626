"""What our server lets in, and what it refuses, seen by a client of asyncssh that tries it all."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_UNKNOWN_CHANNEL_TYPE
from asyncssh.packet import String, UInt32
from ssh_lab import (
    LOOPBACK,
    Keys,
    destination,
    enter,
    our_server,
    public_line,
    write_private,
)
from transport_lab import played, until

from vpn.server.app import Server
from vpn.ssh.session import connection as connection_module
from vpn.ssh.session import server as server_module
from vpn.transport.tcp import TcpTransport


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")


@asynccontextmanager
async def stranger(server: Server, keys: Keys, **options: Any) -> AsyncIterator[Any]:
    """A client that is not ours."""
    arguments: dict[str, Any] = {
        "known_hosts": None,
        "config": None,
        "username": "anybody",
        "client_keys": [str(keys.path)],
        "agent_path": None,
    } | options
    async with asyncssh.connect(
        server.address.host, server.address.port, **arguments
    ) as connection:
        yield connection


@asynccontextmanager
async def logged_in(keys: Keys, **options: Any) -> AsyncIterator[Any]:
    async with (
        our_server(keys, TcpTransport()) as (server, _),
        stranger(server, keys, **options) as connection,
    ):
        yield connection


async def is_in(server: Server, keys: Keys, **options: Any) -> bool:
    try:
        async with stranger(server, keys, **options):
            return True
    except asyncssh.PermissionDenied:
        return False


async def opened(connection: Any, host: str, port: int) -> Any:
    """What becomes of a channel: the first bytes, or the code and text of the refusal."""
    try:
        reader, writer = await connection.open_connection(host, port)
    except asyncssh.ChannelOpenError as refused:
        return refused.code, refused.reason
    received = await reader.read(5)
    writer.close()
    return received


@played
async def test_key_that_is_authorized_gets_a_flow(keys: Keys) -> None:
    async with logged_in(keys) as connection, destination(hello) as port:
        assert await opened(connection, LOOPBACK, port) == b"hello"


@played
async def test_key_taken_out_is_out_at_the_next_login(keys: Keys) -> None:
    async with our_server(keys, TcpTransport()) as (server, _):
        assert await is_in(server, keys)
        keys.authorized.write_text("# nobody\n")
        assert not await is_in(server, keys)
        keys.authorized.unlink()
        assert not await is_in(server, keys)
        keys.authorize()
        assert await is_in(server, keys)


@pytest.mark.parametrize(
    ("options", "is_allowed"),
    [
        (f'from="{LOOPBACK}"', True),
        ('from="192.0.2.0/24"', False),
        ('expiry-time="20200101"', False),
        ('expiry-time="20990101"', True),
        ("unknown-option", False),
    ],
)
@played
async def test_options_that_decide_the_login(keys: Keys, options: str, is_allowed: bool) -> None:
    keys.authorize(options)
    async with our_server(keys, TcpTransport()) as (server, _):
        assert await is_in(server, keys) is is_allowed


@played
async def test_options_that_decide_the_flows(keys: Keys) -> None:
    async with destination(hello) as port:
        keys.authorize(f'permitopen="{LOOPBACK}:{port}"')
        async with logged_in(keys) as connection:
            assert await opened(connection, LOOPBACK, port) == b"hello"
            assert await opened(connection, "localhost", port) == (
                OPEN_ADMINISTRATIVELY_PROHIBITED,
                "POLICY:permitopen",
            )
        keys.authorize("restrict")
        async with logged_in(keys) as connection:
            assert await opened(connection, LOOPBACK, port) == (
                OPEN_ADMINISTRATIVELY_PROHIBITED,
                "POLICY:port-forwarding",
            )


@pytest.mark.parametrize("mode", [0o620, 0o602])
@played
async def test_file_that_others_can_write_lets_nobody_in(
    keys: Keys, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    keys.authorized.chmod(mode)
    async with our_server(keys, TcpTransport()) as (server, _):
        assert not await is_in(server, keys)
    assert f"authorized keys {keys.authorized} ignored" in caplog.text


@played
async def test_directory_that_others_can_write_lets_nobody_in(keys: Keys) -> None:
    keys.directory.chmod(0o777)
    async with our_server(keys, TcpTransport()) as (server, _):
        assert not await is_in(server, keys)
    keys.directory.chmod(0o700)


class Authority:
    """A user's certificate authority."""

    def __init__(self, keys: Keys, algorithm: str = "ssh-ed25519") -> None:
        self.key = asyncssh.generate_private_key(algorithm)
        self.keys = keys

    def authorize(self, options: str = "cert-authority") -> None:
        self.keys.authorize(options, self.key)

    def sign(self, **options: Any) -> dict[str, Any]:
        """The login options of a user with a new certificate, and nothing but it."""
        arguments: dict[str, Any] = {"principals": ["alice"]} | options
        certificate = self.key.generate_user_certificate(self.keys.key, "test", **arguments)
        return {"username": "alice", "client_keys": [(self.keys.key, certificate)]}


@pytest.mark.parametrize(
    ("changes", "is_allowed"),
    [
        ({}, True),
        ({"principals": ["alice", "bob"]}, True),
        ({"principals": ["bob"]}, False),
        ({"principals": []}, False),
        ({"valid_before": "20200101"}, False),
        ({"valid_after": "20990101"}, False),
        ({"source_address": [LOOPBACK]}, True),
        ({"source_address": ["192.0.2.0/24"]}, False),
    ],
)
@played
async def test_certificate(keys: Keys, changes: dict[str, Any], is_allowed: bool) -> None:
    authority = Authority(keys)
    authority.authorize()
    async with our_server(keys, TcpTransport()) as (server, _):
        assert await is_in(server, keys, **authority.sign(**changes)) is is_allowed


@played
async def test_certificate_of_another_authority(keys: Keys) -> None:
    Authority(keys).authorize()
    async with our_server(keys, TcpTransport()) as (server, _):
        assert not await is_in(server, keys, **Authority(keys).sign())


@played
async def test_certificate_by_the_principals_of_the_line(keys: Keys) -> None:
    authority = Authority(keys)
    authority.authorize('cert-authority,principals="ops"')
    async with our_server(keys, TcpTransport()) as (server, _):
        assert await is_in(server, keys, **authority.sign(principals=["ops"]))
        assert not await is_in(server, keys, **authority.sign(principals=["alice"]))


@played
async def test_certificate_without_permission_to_forward(keys: Keys) -> None:
    authority = Authority(keys)
    authority.authorize()
    login = authority.sign(permit_port_forwarding=False)
    async with logged_in(keys, **login) as connection:
        code, _ = await opened(connection, LOOPBACK, 1)
        assert code == OPEN_ADMINISTRATIVELY_PROHIBITED


@played
async def test_certificate_with_an_unknown_critical_option(keys: Keys) -> None:
    """`verify-required` is one which asyncssh does not know."""
    async with our_server(keys, TcpTransport()) as (server, _):
        authority = Authority(keys)
        authority.authorize()
        blob = certificate_with_critical_option(authority.key, keys.key, b"verify-required")
        path = keys.directory / "id_user-cert.pub"
        path.write_bytes(blob)
        process = await asyncio.create_subprocess_exec(
            "ssh", "-F", "none", "-p", str(server.address.port), "-i", str(keys.path),
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-N", f"alice@{LOOPBACK}",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
        assert b"Permission denied" in errors


def certificate_with_critical_option(authority: Any, key: Any, option: bytes) -> bytes:
    """PROTOCOL.certkeys, ssh-ed25519-cert-v01@openssh.com."""
    algorithm = b"ssh-ed25519-cert-v01@openssh.com"
    body = b"".join(
        (
            String(algorithm),
            String(os.urandom(32)),
            String(key.public_data[-32:]),
            bytes(8),
            UInt32(1),
            String(b"test"),
            String(String(b"alice")),
            bytes(8),
            b"\xff" * 8,
            String(String(option) + String(b"")),
            String(String(b"permit-port-forwarding") + String(b"")),
            String(b""),
            String(authority.public_data),
        )
    )
    import base64

    blob = body + String(authority.sign(body, b"ssh-ed25519"))
    return algorithm + b" " + base64.b64encode(blob) + b" test\n"


@played
async def test_signatures_with_sha1_are_refused(keys: Keys) -> None:
    """By a user's RSA key, and by an RSA authority."""
    rsa = asyncssh.generate_private_key("ssh-rsa")
    write_private(keys.path, rsa)
    keys.authorize(key=rsa)
    async with our_server(keys, TcpTransport()) as (server, _):
        assert await is_in(server, keys)
        pair = asyncssh.load_keypairs([rsa])[0]
        pair.set_sig_algorithm(b"ssh-rsa")
        pair.sig_algorithms = (b"ssh-rsa",)
        weak = {"client_keys": [pair], "signature_algs": ["ssh-rsa"]}
        assert not await is_in(server, keys, **weak)
        authority = Authority(keys, "ssh-rsa")
        authority.authorize()
        keys.key = asyncssh.generate_private_key("ssh-ed25519")
        assert await is_in(server, keys, **authority.sign(sig_alg="rsa-sha2-512"))
        assert not await is_in(server, keys, **authority.sign(sig_alg="ssh-rsa"))


@played
async def test_passwords_are_never_asked(keys: Keys) -> None:
    async with our_server(keys, TcpTransport()) as (server, _):
        with pytest.raises(asyncssh.PermissionDenied):
            async with stranger(
                server,
                keys,
                client_keys=[asyncssh.generate_private_key("ssh-ed25519")],
                password="secret",
            ):
                pass  # fmt: skip
        methods = await asyncssh.get_server_auth_methods(
            server.address.host, server.address.port, username="anybody", config=None
        )
        assert methods == ["publickey"]


@pytest.mark.parametrize(
    "weak",
    [
        {"encryption_algs": ["aes128-cbc", "3des-cbc"]},
        {"encryption_algs": ["chacha20-poly1305@openssh.com"]},
        {"kex_algs": ["diffie-hellman-group14-sha1"]},
        {"kex_algs": ["diffie-hellman-group14-sha256"]},
        {"server_host_key_algs": ["ssh-rsa"]},
    ],
)
@played
async def test_weak_algorithms_have_nothing_in_common(keys: Keys, weak: dict[str, Any]) -> None:
    with pytest.raises(asyncssh.KeyExchangeFailed):
        async with logged_in(keys, **weak):
            pass


@played
async def test_aead_and_strict_key_exchange_are_used(keys: Keys) -> None:
    async with logged_in(keys) as connection:
        for direction in ("send", "recv"):
            assert connection.get_extra_info(f"{direction}_cipher").endswith("gcm@openssh.com")
            assert connection.get_extra_info(f"{direction}_compression") == "none"
        assert connection._strict_kex


@played
async def test_each_other_channel_is_refused(keys: Keys) -> None:
    attempts: dict[str, Callable[[Any], Any]] = {
        "shell": lambda each: each.create_session(asyncssh.SSHClientSession),
        "command": lambda each: each.create_session(asyncssh.SSHClientSession, "id"),
        "subsystem": lambda each: each.create_session(asyncssh.SSHClientSession, subsystem="sftp"),
        "terminal": lambda each: each.create_session(
            asyncssh.SSHClientSession, term_type="xterm", request_pty="force"
        ),
        "X11": lambda each: each.create_session(asyncssh.SSHClientSession, x11_forwarding=True),
        "Unix socket": lambda each: each.open_unix_connection("/run/some.sock"),
        "TUN": lambda each: each.open_tun(),
        "TAP": lambda each: each.open_tap(),
    }
    async with logged_in(keys) as connection:
        for name, attempt in attempts.items():
            with pytest.raises(asyncssh.ChannelOpenError) as refused:
                await attempt(connection)
            assert refused.value.code == OPEN_ADMINISTRATIVELY_PROHIBITED, name


@pytest.mark.parametrize(
    "channel_type",
    [
        b"forwarded-tcpip",
        b"forwarded-streamlocal@openssh.com",
        b"x11",
        b"auth-agent@openssh.com",
        b"direct-udpip",
        b"\xff",
        b"",
    ],
)
@played
async def test_each_unknown_channel_is_refused(keys: Keys, channel_type: bytes) -> None:
    async with logged_in(keys) as connection:
        channel = connection.create_tcp_channel()
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.DisconnectError)) as refused:
            await channel._open(channel_type, String(""), UInt32(1), String(""), UInt32(1))
        if isinstance(refused.value, asyncssh.ChannelOpenError):
            assert refused.value.code in (OPEN_UNKNOWN_CHANNEL_TYPE, 2)


@played
async def test_each_global_request_is_refused(keys: Keys) -> None:
    async with logged_in(keys) as connection:
        for listen in (
            connection.forward_remote_port("", 0, LOOPBACK, 1),
            connection.forward_remote_port(LOOPBACK, 8080, LOOPBACK, 1),
            connection.forward_remote_path("/tmp/listening.sock", "/tmp/x"),
        ):
            with pytest.raises(asyncssh.ChannelListenError):
                await listen


def test_asyncssh_can_do_no_more_than_what_was_looked_at() -> None:
    """A new release that answers more must be looked at again."""
    handlers = {
        name
        for name in dir(asyncssh.SSHServerConnection)
        if name.startswith("_process_") and name.endswith(("_open", "_global_request"))
    }
    assert handlers == {
        "_process_global_request",
        "_process_cancel_streamlocal_forward_at_openssh_dot_com_global_request",
        "_process_cancel_tcpip_forward_global_request",
        "_process_channel_open",
        "_process_direct_streamlocal_at_openssh_dot_com_open",
        "_process_direct_tcpip_open",
        "_process_hostkeys_prove_00_at_openssh_dot_com_global_request",
        "_process_keepalive_at_openssh_dot_com_global_request",
        "_process_session_open",
        "_process_streamlocal_forward_at_openssh_dot_com_global_request",
        "_process_tcpip_forward_global_request",
        "_process_tun_at_openssh_dot_com_open",
    }


@played
async def test_too_many_channels_are_refused(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_CHANNELS", 2)
    async with logged_in(keys) as connection, destination(hello) as port:
        open_ones = [await connection.open_connection(LOOPBACK, port) for _ in range(2)]
        code, reason = await opened(connection, LOOPBACK, port)
        assert (code, reason) == (asyncssh.OPEN_RESOURCE_SHORTAGE, "too many channels")
        for _, writer in open_ones:
            writer.close()
            await writer.channel.wait_closed()
        assert await opened(connection, LOOPBACK, port) == b"hello"


@played
async def test_too_many_attempts_end_the_connection(keys: Keys) -> None:
    async with our_server(keys, TcpTransport()) as (server, _):
        wrong = [
            asyncssh.generate_private_key("ssh-ed25519")
            for _ in range(server_module.MAX_ATTEMPTS + 5)
        ]
        with pytest.raises(asyncssh.PermissionDenied, match="Too many"):
            async with stranger(server, keys, client_keys=[*wrong, keys.key]):
                pass


@played
async def test_silent_client_is_cut_off(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOGIN_TIMEOUT_S", 0.2)
    async with our_server(keys, TcpTransport()) as (server, _):
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
        writer.write(b"SSH-2.0-slow\r\n")
        await reader.read()  # the version, KEXINIT, then the end
        writer.close()


@played
async def test_crowd_on_the_doorstep_does_not_keep_out_who_knocks(keys: Keys) -> None:
    async with our_server(keys, TcpTransport()) as (server, _):
        crowd = [
            await asyncio.open_connection(server.address.host, server.address.port)
            for _ in range(400)
        ]
        assert await is_in(server, keys)
        waiting = server._acceptor._startups.waiting()
        assert len(waiting) <= 256
        for _, writer in crowd:
            writer.transport.abort()


@played
async def test_failed_login_is_one_line_with_the_source_and_nothing_else(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with our_server(keys, TcpTransport()) as (server, _):
        intruder = asyncssh.generate_private_key("ssh-ed25519", comment="canary-key")
        assert not await is_in(
            server, keys, username="canary-user", client_keys=[intruder, intruder]
        )
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("vpn.")]
    (line,) = ours
    assert line.startswith(f"authentication failed from {LOOPBACK} port ")
    assert "canary" not in caplog.text


@played
async def test_nothing_about_users_or_destinations_is_logged(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with logged_in(keys, username="canary-user") as connection:
        code, _ = await opened(connection, "canary.invalid", 80)
        assert code == asyncssh.OPEN_CONNECT_FAILED
        async with destination(hello) as port:
            assert await opened(connection, "localhost", port) == b"hello"
            assert str(port) not in caplog.text
    assert "canary" not in caplog.text
    assert "localhost" not in caplog.text
    assert public_line(keys.key).split()[1] not in caplog.text


@played
async def test_abrupt_end_of_a_client_resets_its_flows(keys: Keys) -> None:
    listener = socket.create_server((LOOPBACK, 0))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    with listener:
        async with logged_in(keys) as connection:
            await connection.open_connection(LOOPBACK, listener.getsockname()[1])
            far, _ = await loop.sock_accept(listener)
            far.setblocking(False)
            connection.abort()
        with far, pytest.raises(ConnectionResetError):
            await loop.sock_recv(far, 1)


@played
async def test_client_counts_as_waiting_until_its_login_and_as_a_session_until_its_end(
    keys: Keys,
) -> None:
    async with our_server(keys, TcpTransport()) as (server, used):
        acceptor = server._acceptor
        _, writer = await asyncio.open_connection(server.address.host, server.address.port)
        await until(lambda: len(acceptor._startups.waiting()) == 1)
        session = await enter(used, server.address, keys)
        await until(lambda: len(acceptor._sessions) == 1)
        assert len(acceptor._startups.waiting()) == 1
        writer.close()
        await until(lambda: not acceptor._startups.waiting())
        await session.close()
        await until(lambda: not acceptor._sessions)


@played
async def test_server_that_stops_says_goodbye_and_closes_streams_that_come(keys: Keys) -> None:
    async with our_server(keys, TcpTransport()) as (server, _):
        reasons: list[Exception | None] = []

        class Client(asyncssh.SSHClient):
            def connection_lost(self, exc: Exception | None) -> None:
                reasons.append(exc)

        async with stranger(server, keys, client_factory=Client):
            await server._acceptor.close(0.0)
            await until(lambda: bool(reasons))
        assert reasons == [None]  # a goodbye (RFC 4253 §11.1), no broken connection
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
        assert await reader.read() == b""
        writer.close()
