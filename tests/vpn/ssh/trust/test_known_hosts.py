import base64
import hmac
import os
from pathlib import Path

import asyncssh
import pytest
from asyncssh.public_key import SSHKey

from vpn.errors import ConfigurationError, UsageError
from vpn.ssh.trust.known_hosts import add, find, name_of, policy_for, read
from vpn.transport.base import Address

SERVER = Address("Host.example", 4422)
KEYS = [asyncssh.generate_private_key("ssh-ed25519").convert_to_public() for _ in range(4)]


def line(key: SSHKey) -> str:
    return key.export_public_key().decode().strip()


def hashed(name: str) -> str:
    """As `ssh-keygen -H` writes it."""
    salt = os.urandom(20)
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("name", "is_for_port"),
    [
        ("[host.example]:4422", True),
        ("other,[host.example]:4422", True),
        pytest.param(hashed("[host.example]:4422"), True, id="hashed"),
        ("[*.example]:4422", True),
        ("host.example", False),
        pytest.param(hashed("host.example"), False, id="hashed, no port"),
    ],
)
def test_line_for_the_server(name: str, is_for_port: bool) -> None:
    known = find([f"# comment\n\n{name} {line(KEYS[0])}\n"], SERVER)
    found, other = known.for_port, known.for_host
    assert (found if is_for_port else other) == (KEYS[0],)
    assert (other if is_for_port else found) == ()


@pytest.mark.parametrize(
    "name",
    [
        "[host.example]:22",
        "[host.example]:4423",
        "example",
        "!host.example",
        pytest.param(hashed("host"), id="hashed"),
    ],
)
def test_line_for_another_server(name: str) -> None:
    known = find([f"{name} {line(KEYS[0])}\n"], SERVER)
    assert known.for_port == known.for_host == ()


def test_markers() -> None:
    text = f"@cert-authority *.example {line(KEYS[0])}\n@revoked * {line(KEYS[1])}\n"
    known = find([text], SERVER)
    assert (known.authorities, known.revoked) == ((KEYS[0],), (KEYS[1],))
    assert known.for_port == known.for_host == ()


def test_broken_line_hides_nothing() -> None:
    text = f"@nonsense x y\njust-one-field\n|1|bad|hash x\n[host.example]:4422 {line(KEYS[0])}\n"
    assert find([text], SERVER).for_port == (KEYS[0],)


def test_port_22_has_no_brackets() -> None:
    assert name_of(Address("Host.Example", 22)) == "host.example"
    assert find([f"host.example {line(KEYS[0])}"], Address("host.example", 22)).for_port == (
        KEYS[0],
    )
    assert name_of(Address("2001:db8::1", 4422)) == "[2001:db8::1]:4422"


@pytest.mark.parametrize("host", ["", "a b", "a,b", "*", "a\nb", "#", "@revoked"])
def test_host_that_would_mean_something_else(host: str) -> None:
    with pytest.raises(ConfigurationError):
        name_of(Address(host, 22))


def test_added_line_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "ssh" / "known_hosts"
    add(path, name_of(SERVER), KEYS[0])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.write_text(path.read_text() + f"x {line(KEYS[1])}")  # no newline at the end
    add(path, name_of(SERVER), KEYS[2])
    assert policy_for(SERVER, files=[path]).known.for_port == (KEYS[0], KEYS[2])
    assert find(read([path]), Address("x", 22)).for_port == (KEYS[1],)
    assert "PRIVATE" not in path.read_text()


def test_missing_file_is_no_error_unreadable_one_is(tmp_path: Path) -> None:
    assert read([tmp_path / "missing"]) == []
    with pytest.raises(ConfigurationError):
        read([tmp_path])
    with pytest.raises(ConfigurationError):
        add(tmp_path, "x", KEYS[0])


@pytest.mark.parametrize("pin", ["", "SHA256:", "SHA256:short", "MD5:00:11", "x" * 50])
def test_pin_that_is_no_fingerprint(pin: str) -> None:
    with pytest.raises(UsageError):
        policy_for(SERVER, pin=pin, files=())
