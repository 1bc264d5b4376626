"""Logging in: each way it fails is one line, and nothing is trusted that should not be."""

import asyncio
import logging
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.connection import SSHServerConnection
from asyncssh.constants import MSG_CHANNEL_OPEN_FAILURE, OPEN_CONNECT_FAILED
from asyncssh.packet import String, UInt32
from ssh_lab import (
    IDENTITY,
    LOOPBACK,
    Keys,
    connect,
    encrypt,
    enter,
    login_with,
    our_server,
    public_line,
    session_of,
    session_with_sshd,
    trusting,
    write_private,
)
from transport_lab import free_port, played, played_on_each_loop, until

from vpn.errors import ConfigurationError, OverlayError, TransportError
from vpn.protocol.failure import Failure, OpenFailed
from vpn.ssh.session import client as client_module
from vpn.ssh.trust import known_hosts
from vpn.transport.base import Address, Dialing, PlainSockets
from vpn.transport.memory import MemoryTransport
from vpn.transport.quic.transport import QuicTransport
from vpn.transport.tcp import TcpTransport

TRANSPORTS = {"memory": lambda: MemoryTransport({}), "tcp": TcpTransport, "quic": QuicTransport}


@pytest.fixture(params=sorted(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> Any:
    return TRANSPORTS[request.param]()


async def failure_of(attempt: Any) -> str:
    """The one line of a login that fails."""
    with pytest.raises(OverlayError) as failed:
        await attempt
    text = str(failed.value)
    assert "\n" not in text
    return f"{type(failed.value).__name__}: {text}"


@played_on_each_loop
async def test_session_that_needs_datagrams_is_not_made_without(keys: Keys, transport: Any) -> None:
    async with our_server(keys, transport) as (server, used):
        login = login_with(keys, trusting(server.address))
        to = Dialing(server.address, PlainSockets(), datagrams=True)
        if transport.name == "quic":
            await (await client_module.connect(used, to, login)).close()
            return
        said = await failure_of(client_module.connect(used, to, login))
        assert said.startswith("ConfigurationError: there are no datagrams on the way to")


@played_on_each_loop
async def test_login_tells_our_server_from_others(
    keys: Keys, start_sshd: Callable, transport: Any
) -> None:
    async with session_of(keys, transport) as session:
        assert session.is_overlay_server
        assert session.host_key.get_fingerprint() == IDENTITY.fingerprint
    async with session_with_sshd(keys, start_sshd()) as session:
        assert not session.is_overlay_server


@played
async def test_unknown_host_key(keys: Keys, transport: Any) -> None:
    async with our_server(keys, transport) as (server, used):
        login = login_with(keys, trusting(server.address, pin=None))
        line = await failure_of(connect(used, server.address, login))
        assert line.startswith("AuthenticationError: ")
        assert IDENTITY.fingerprint in line
        assert "--accept-new" in line


@played
async def test_changed_host_key(keys: Keys, transport: Any, tmp_path: Path) -> None:
    async with our_server(keys, transport) as (server, used):
        other = asyncssh.generate_private_key("ssh-ed25519")
        path = tmp_path / "known_hosts"
        known_hosts.add(path, known_hosts.name_of(server.address), other)
        before = path.read_text()
        policy = trusting(server.address, pin=None, accept_new=True, files=[path])
        login = login_with(keys, policy, new_hosts_file=path)
        line = await failure_of(connect(used, server.address, login))
        assert "has changed" in line
        assert path.read_text() == before


@played
async def test_accepted_new_is_known_the_next_time(
    keys: Keys, transport: Any, tmp_path: Path
) -> None:
    async with our_server(keys, transport) as (server, used):
        path = tmp_path / "known_hosts"
        for accept_new in (True, False):
            policy = trusting(server.address, pin=None, accept_new=accept_new, files=[path])
            login = login_with(keys, policy, new_hosts_file=path)
            session = await connect(used, server.address, login)
            await session.close()
        name = known_hosts.name_of(server.address)
        assert path.read_text() == f"{name} {IDENTITY.openssh_public}\n"


@played
async def test_key_that_cannot_be_added_ends_the_session(keys: Keys, tmp_path: Path) -> None:
    async with our_server(keys, TcpTransport()) as (server, used):
        (tmp_path / "file").touch()
        policy = trusting(server.address, pin=None, accept_new=True)
        login = login_with(keys, policy, new_hosts_file=tmp_path / "file" / "known_hosts")
        line = await failure_of(connect(used, server.address, login))
        assert line.startswith("ConfigurationError: cannot add the host key to ")
        await until(lambda: not server._acceptor._carriers)


@played
async def test_relay_that_ends_the_transport(keys: Keys) -> None:
    """Both keys are known, so that only the comparison of the two can find it."""

    class Relayed(MemoryTransport):
        async def connect(self, dialing: Any, factory: Any) -> Any:
            stream = await super().connect(dialing, factory)
            stream._extra["peer_key"] = relay.public_data[-32:]
            return stream

    relay = asyncssh.generate_private_key("ssh-ed25519")
    async with our_server(keys, Relayed({})) as (server, used):
        path = keys.directory / "known_hosts"
        name = known_hosts.name_of(server.address)
        path.write_text(f"{name} {IDENTITY.openssh_public}\n{name} {public_line(relay)}\n")
        policy = trusting(server.address, pin=None, files=[path])
        line = await failure_of(connect(used, server.address, login_with(keys, policy)))
        assert "relays the connection" in line


@played
async def test_permission_denied_counts_the_keys(keys: Keys) -> None:
    keys.authorized.write_text("")
    async with our_server(keys) as (server, used):
        line = await failure_of(enter(used, server.address, keys))
        assert line.startswith("AuthenticationError: permission denied")
        assert "none of 1 key(s)" in line


@played
async def test_permission_denied_by_sshd(keys: Keys, start_sshd: Callable) -> None:
    sshd = start_sshd("MaxAuthTries 1", authorized="# nobody\n")
    login = login_with(keys, sshd.host_keys)
    line = await failure_of(connect(TcpTransport(), sshd.address, login))
    assert line.startswith("AuthenticationError: permission denied")


Greet = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def failure_at(greet: Greet, keys: Keys, **options: Any) -> str:
    """What a login says at a server that only greets."""
    async with await asyncio.start_server(greet, LOOPBACK, 0) as server:
        address = Address(LOOPBACK, server.sockets[0].getsockname()[1])
        login = login_with(keys, trusting(address), **options)
        return await failure_of(connect(TcpTransport(), address, login))


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not an SSH server"),
        (b"", "is not an SSH server"),
        (b"SSH-1.5-ancient\r\n", "is not an SSH server"),
        (b"SSH-2.0-broken\r\n\xff\xff\xff\xff\xff", "ended the login"),
    ],
)
@played
async def test_what_is_no_ssh_server(keys: Keys, greeting: bytes, text: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    line = await failure_at(greet, keys)
    assert line.startswith("TransportError: ")
    assert text in line


def kexinit(algorithm: bytes) -> bytes:
    """The first packet of a server that can do one algorithm of each kind (RFC 4253 §7.1)."""
    payload = bytes([20]) + bytes(16) + String(algorithm) * 10 + bytes(5)
    padding = bytes(4 + -(len(payload) + 9) % 8)
    return UInt32(1 + len(payload + padding)) + bytes([len(padding)]) + payload + padding


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-caf\xe9\r\n", b"SSH-2.0-broken\r\n" + kexinit(b"caf\xe9")]
)
@played
async def test_server_whose_words_are_not_ascii(keys: Keys, greeting: bytes) -> None:
    """Nobody has proven yet who it is."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read()
        writer.close()

    line = await failure_at(greet, keys)
    assert line.startswith("TransportError: ")
    assert "does not speak SSH" in line


@played
async def test_server_that_is_silent(keys: Keys) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    line = await failure_at(wait, keys, timeout_s=0.2)
    assert "did not finish the login in 0.2 s" in line


@played
async def test_server_without_a_strong_algorithm(keys: Keys, start_sshd: Callable) -> None:
    sshd = start_sshd("KexAlgorithms diffie-hellman-group14-sha1")
    login = login_with(keys, sshd.host_keys)
    # A reset by the server overtakes its last words at times: then it is "ended the login".
    lines = [await failure_of(connect(TcpTransport(), sshd.address, login)) for _ in range(8)]
    assert any("no strong algorithm" in line for line in lines)


@played
async def test_nobody_listens(keys: Keys) -> None:
    address = Address(LOOPBACK, free_port(1))
    with pytest.raises(TransportError):
        await enter(TcpTransport(), address, keys)


@played_on_each_loop
async def test_login_cancelled_leaves_nothing(keys: Keys) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        writer.close()
        gone.set()

    came, gone = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(wait, LOOPBACK, 0)
    async with server:
        address = Address(LOOPBACK, server.sockets[0].getsockname()[1])
        connecting = asyncio.create_task(enter(TcpTransport(), address, keys))
        await came.wait()
        connecting.cancel()
        await gone.wait()
        with pytest.raises(asyncio.CancelledError):
            await connecting


class Agent:
    """An ssh-agent."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "agent.sock")
        self._process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", self.path], stdout=subprocess.DEVNULL
        )
        while not os.path.exists(self.path):
            assert self._process.poll() is None

    def add(self, path: Path) -> None:
        environment = {**os.environ, "SSH_AUTH_SOCK": self.path}
        subprocess.run(["ssh-add", "-q", str(path)], env=environment, check=True)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user without keys."""
    (tmp_path / ".ssh").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
@played_on_each_loop
async def test_key_of_the_agent(keys: Keys, agent: Agent, home: Path, algorithm: str) -> None:
    key = asyncssh.generate_private_key(algorithm)
    write_private(keys.path, key)
    keys.authorize(key=key)
    agent.add(keys.path)
    keys.path.unlink()
    async with session_of(keys, identities=None, agent_path=agent.path):
        pass


@pytest.mark.parametrize("name", ["id_ed25519", "id_ecdsa", "id_rsa"])
@played
async def test_key_in_the_usual_file(keys: Keys, home: Path, name: str) -> None:
    write_private(home / ".ssh" / name, keys.key)
    for agent_path in (None, str(home / "no-such-socket")):
        async with session_of(keys, identities=None, agent_path=agent_path):
            pass


@played
async def test_certificate_beside_the_key(keys: Keys) -> None:
    authority = asyncssh.generate_private_key("ssh-ed25519")
    keys.authorize("cert-authority", authority)
    certificate = authority.generate_user_certificate(keys.key, "test", principals=["alice"])
    certificate.write_certificate(f"{keys.path}-cert.pub")
    async with session_of(keys, user="alice"):
        pass


@played
async def test_no_key_at_all(keys: Keys, home: Path) -> None:
    line = await failure_of(session_of(keys, identities=None).__aenter__())
    assert "there is no key to offer" in line
    write_private(home / ".ssh" / "id_ed25519", keys.key)
    encrypt(home / ".ssh" / "id_ed25519")
    line = await failure_of(session_of(keys, identities=None).__aenter__())
    assert "1 key(s) are encrypted, add them with ssh-add" in line


@pytest.mark.parametrize("trouble", ["missing", "open to others", "no key", "encrypted"])
@played
async def test_named_key_that_cannot_be_used(keys: Keys, trouble: str) -> None:
    if trouble == "missing":
        keys.path.unlink()
    elif trouble == "open to others":
        keys.path.chmod(0o640)
    elif trouble == "no key":
        keys.path.write_text("not a key")
    else:
        encrypt(keys.path)
    with pytest.raises(ConfigurationError) as failed:
        await session_of(keys).__aenter__()
    assert str(keys.path) in str(failed.value)


@played_on_each_loop
async def test_closed_by_us(keys: Keys) -> None:
    async with session_of(keys) as session:
        await session.close()
        assert await session.closed == "closed"
        await session.close()
        with pytest.raises(OpenFailed) as failed:
            await session.open(LOOPBACK, 1)
        assert failed.value.failure is Failure.UNAVAILABLE


@played_on_each_loop
async def test_closed_by_the_server(keys: Keys) -> None:
    async with our_server(keys) as (server, used):
        session = await enter(used, server.address, keys)
        await server.close()
        assert await session.closed == "the server closed the session"


@played
async def test_server_that_died_is_noticed(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "KEEPALIVE_S", 0.1)
    async with session_of(keys, MemoryTransport({})) as session:
        carrier: Any = session._connection._transport
        carrier._stream._peer.pause_reading()  # it hears nothing any more
        assert await session.closed == "the server does not answer any more"


@played
async def test_server_that_died_is_noticed_sooner_in_a_hurry(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the hurry is repeated, and with the usual patience far away."""
    monkeypatch.setattr(client_module, "KEEPALIVE_S", 1000.0)
    monkeypatch.setattr(client_module, "HURRY_S", 0.1)
    async with session_of(keys, MemoryTransport({})) as session:
        session.hurry()
        await asyncio.sleep(0.5)
        assert not session.closed.done()
        carrier: Any = session._connection._transport
        carrier._stream._peer.pause_reading()
        while not session.closed.done():
            session.hurry()
            await asyncio.sleep(0.02)
        assert await session.closed == "the server does not answer any more"


@played
async def test_nothing_about_destinations_or_keys_is_logged(
    keys: Keys, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with session_of(keys, user="canary-user") as session:
        for host in ("canary.invalid", "canary.overlay-vpn.internal"):
            with pytest.raises(OpenFailed):
                await session.open(host, 80)
    said = caplog.text + "".join(capfd.readouterr())
    assert "canary" not in said
    assert IDENTITY.fingerprint not in said
    assert public_line(keys.key).split()[1] not in said


@played
async def test_reasons_in_another_encoding_are_no_offence(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as strerror(3) in Latin-1."""

    def refuse(raw: bytes) -> Any:
        def send(self: Any, send_chan: int, *_: Any) -> None:
            failure = (UInt32(send_chan), UInt32(OPEN_CONNECT_FAILED), String(raw), String(""))
            self.send_packet(MSG_CHANNEL_OPEN_FAILURE, *failure)

        return send

    async with session_of(keys) as session:
        raw = b"Connection refused: caf\xe9"
        monkeypatch.setattr(SSHServerConnection, "send_channel_open_failure", refuse(raw))
        with pytest.raises(OpenFailed) as failed:
            await session.open("nowhere.invalid", 80)
        assert failed.value.failure is Failure.ECONNREFUSED
        assert not session.closed.done()
