"""OpenSSH at the other end: a stock sshd for our client, ssh(1) for our server."""

import asyncio
import hashlib
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest
from ssh_lab import (
    LOOPBACK,
    Keys,
    Sshd,
    connect,
    destination,
    echo,
    flow_to,
    login_with,
    our_server,
    session_with_sshd,
    user_name,
)
from transport_lab import free_port, played, played_on_each_loop

from vpn.protocol.failure import Failure, OpenFailed
from vpn.transport.base import Address
from vpn.transport.tcp import TcpTransport

BULK = os.urandom(1 << 20) * 20


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.write_eof()
    await reader.read()


async def failure_of(session: Any, host: str, port: int) -> OpenFailed:
    with pytest.raises(OpenFailed) as failed:
        await session.open(host, port)
    return failed.value


@played_on_each_loop
async def test_twenty_megabytes_both_ways_arrive_whole(keys: Keys, start_sshd: Callable) -> None:
    async with session_with_sshd(keys, start_sshd()) as session, destination(echo) as port:
        reader, writer, pump = await flow_to(session, port)

        async def send() -> None:
            for start in range(0, len(BULK), 1 << 18):
                writer.write(BULK[start : start + (1 << 18)])
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        received = hashlib.sha256()
        while data := await reader.read(1 << 18):
            received.update(data)
        await sending
        assert received.digest() == hashlib.sha256(BULK).digest()
        assert pump.bytes_up == pump.bytes_down == len(BULK)
        writer.close()


@played
async def test_failures_of_sshd_are_told_apart(keys: Keys, start_sshd: Callable) -> None:
    async with session_with_sshd(keys, start_sshd()) as session:
        closed = free_port(socket.SOCK_STREAM)
        for host in (LOOPBACK, "localhost", "::1"):
            failed = await failure_of(session, host, closed)
            assert failed.failure is Failure.ECONNREFUSED, host
        failed = await failure_of(session, "nowhere.invalid", 80)
        assert failed.failure is Failure.NXDOMAIN
        failed = await failure_of(session, "255.255.255.255", 80)
        assert failed.failure is Failure.ENETUNREACH  # "open failed"
        failed = await failure_of(session, "resolver.overlay-vpn.internal", 53)
        assert failed.failure is Failure.NXDOMAIN


@pytest.mark.parametrize(
    "line",
    [
        f"PermitOpen {LOOPBACK}:1",
        "AllowTcpForwarding no",
        "DisableForwarding yes",
    ],
)
@played
async def test_prohibition_of_sshd_is_a_policy(keys: Keys, start_sshd: Callable, line: str) -> None:
    sshd = start_sshd(line)
    async with session_with_sshd(keys, sshd) as session, destination(hello) as port:
        failed = await failure_of(session, LOOPBACK, port)
        assert failed.failure is Failure.POLICY


@played
async def test_keepalives_of_sshd_are_answered(keys: Keys, start_sshd: Callable) -> None:
    sshd = start_sshd("ClientAliveInterval 1", "ClientAliveCountMax 1")
    async with session_with_sshd(keys, sshd) as session, destination(hello) as port:
        reader, writer, _ = await flow_to(session, port)
        assert await reader.readexactly(5) == b"hello"
        await asyncio.sleep(2.5)
        assert not session.closed.done()
        writer.close()


@played_on_each_loop
async def test_sshd_that_exchanges_keys_all_the_time_loses_nothing(
    keys: Keys, start_sshd: Callable
) -> None:
    sshd = start_sshd("RekeyLimit 1M")
    async with session_with_sshd(keys, sshd) as session, destination(echo) as port:
        reader, writer, _ = await flow_to(session, port)
        data = BULK[: 8 << 20]
        writer.write(data)
        writer.write_eof()
        assert hashlib.sha256(await reader.read(-1)).digest() == hashlib.sha256(data).digest()
        writer.close()


@pytest.mark.parametrize(
    "options",
    [
        "",
        "restrict",
        "restrict,port-forwarding",
        "port-forwarding,restrict",
        "no-port-forwarding",
        'permitopen="127.0.0.1:{port}"',
        'permitopen="127.0.0.1:*"',
        'permitopen="*:{port}"',
        'permitopen="127.0.0.1:1"',
        'permitopen="127.0.0.1:1",permitopen="127.0.0.1:{port}"',
        'restrict,permitopen="127.0.0.1:{port}"',
        'restrict,port-forwarding,permitopen="127.0.0.1:{port}"',
        'from="127.0.0.1"',
        'from="127.0.0.0/8"',
        'from="127.0.0.1/8"',
        'from="*,!127.0.0.1"',
        'from="192.0.2.1"',
        'from="127.0.0.1",from="*"',
        'expiry-time="20200101"',
        'expiry-time="20990101Z"',
        'command="echo \\"x, y\\""',
        "unknown",
        "restrict,",
        'permitopen="127.0.0.1"',
        "no-pty,no-X11-forwarding,no-agent-forwarding,no-user-rc",
    ],
)
@played
async def test_options_mean_what_they_mean_to_sshd(
    keys: Keys, start_sshd: Callable, options: str
) -> None:
    """The same line for both servers: the same logins, and the same flows."""

    async def outcome(address: Address, port: int) -> str:
        try:
            async with asyncssh.connect(
                address.host, address.port, known_hosts=None, config=None,
                username=user_name(), client_keys=[str(keys.path)], agent_path=None,
            ) as connection:  # fmt: skip
                try:
                    await connection.open_connection(LOOPBACK, port)
                except asyncssh.ChannelOpenError as error:
                    return f"refused {error.code}"
                return "open"
        except asyncssh.PermissionDenied:
            return "no login"

    async with destination(hello) as port:
        text = options.format(port=port)
        sshd: Sshd = start_sshd(authorized=f"{text} {keys.public}\n".lstrip())
        keys.authorize(text)
        async with our_server(keys, TcpTransport()) as (server, _):
            assert await outcome(server.address, port) == await outcome(sshd.address, port)


async def ssh(server_address: Address, keys: Keys, *arguments: str) -> tuple[int, bytes, bytes]:
    """Its exit status, and what it printed, of a run against a server."""
    if not any(each.startswith("UserKnownHostsFile=") for each in arguments):
        arguments = ("-o", "UserKnownHostsFile=/dev/null", *arguments)
    process = await asyncio.create_subprocess_exec(
        "ssh", "-F", "none", "-p", str(server_address.port), "-i", str(keys.path),
        "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
        "-o", "ExitOnForwardFailure=yes", *arguments,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode or 0, output, errors


@played_on_each_loop
async def test_ssh_gets_a_flow_from_our_server(keys: Keys) -> None:
    async with our_server(keys, TcpTransport()) as (server, _), destination(hello) as port:
        target = f"anybody@{LOOPBACK}"
        status, output, errors = await ssh(server.address, keys, "-W", f"{LOOPBACK}:{port}", target)
        assert (status, output) == (0, b"hello"), errors


@played
async def test_ssh_is_told_why_a_flow_is_not_opened(keys: Keys) -> None:
    async with our_server(keys, TcpTransport()) as (server, _):
        closed = free_port(socket.SOCK_STREAM)
        for destination_, text in (
            (f"{LOOPBACK}:{closed}", b"ECONNREFUSED"),
            ("nowhere.invalid:80", b"NXDOMAIN"),
            ("x.overlay-vpn.internal:53", b"POLICY:reserved"),
        ):
            status, _, errors = await ssh(
                server.address, keys, "-W", destination_, f"anybody@{LOOPBACK}"
            )
            assert status != 0
            assert text in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("{target}", "id"),
        ("-T", "{target}"),
        ("-s", "{target}", "sftp"),
        ("-N", "-R", "0:127.0.0.1:1", "{target}"),
        ("-N", "-R", "/tmp/never.sock:127.0.0.1:1", "{target}"),
    ],
)
@played
async def test_ssh_gets_nothing_else(keys: Keys, arguments: tuple[str, ...]) -> None:
    async with our_server(keys, TcpTransport()) as (server, _):
        target = f"anybody@{LOOPBACK}"
        status, output, _ = await ssh(
            server.address, keys, *(each.format(target=target) for each in arguments)
        )
        assert status != 0
        assert output == b""


@played
async def test_ssh_and_our_client_agree_on_the_server(keys: Keys) -> None:
    """known_hosts as ssh(1) writes it lets our client in, whose host names are hashed."""
    from vpn.ssh.trust import known_hosts

    async with our_server(keys, TcpTransport()) as (server, used):
        path = keys.directory / "known_hosts"
        remember = ("-o", "HashKnownHosts=yes", "-o", f"UserKnownHostsFile={path}")
        status, _, errors = await ssh(
            server.address, keys, *remember, "-W", f"{LOOPBACK}:1", f"anybody@{LOOPBACK}"
        )
        assert path.read_text().startswith("|1|"), (status, errors)
        policy = known_hosts.policy_for(server.address, files=[path])
        session = await connect(used, server.address, login_with(keys, policy))
        await session.close()
