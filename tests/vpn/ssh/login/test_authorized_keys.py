"""authorized_keys as sshd reads it; `test_openssh` asks sshd itself about the same lines."""

from datetime import UTC, timedelta, timezone

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.ssh.login.authorized_keys import Entry
from vpn.ssh.login.authorized_parser import parse

KEYS = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(2)]
LINE, OTHER = (key.export_public_key().decode().strip() for key in KEYS)
BLOB = KEYS[0].public_data
HERE, NOW = "192.0.2.7", 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


def entry(options: str) -> Entry | None:
    """The line that lets the key in, here and now."""
    return parse(f"{options} {LINE}").find(BLOB, HERE, NOW)


def is_allowed(options: str, host: str, port: int) -> bool:
    found = entry(options)
    assert found is not None
    return found.grant.refusal(host, port) is None


def test_plain_lines_comments_and_blanks() -> None:
    keys = parse(f"# comment\n\n  {LINE} user@host with spaces\n\t{OTHER}\n")
    assert [each.key_data for each in keys.entries] == [key.public_data for key in KEYS]
    assert keys.refused == ()
    assert keys.find(b"another", HERE, NOW) is None


@pytest.mark.parametrize(
    ("options", "is_open"),
    [
        ("", True),
        ("restrict", False),
        ("RESTRICT", False),
        ("restrict,port-forwarding", True),
        ("port-forwarding,restrict", False),
        ("no-port-forwarding", False),
        ("no-port-forwarding,port-forwarding", True),
        ("no-pty,no-X11-forwarding,no-agent-forwarding,no-user-rc,pty", True),
        ('command="echo \\"hello, world\\"",environment="A=b c"', True),
        ('tunnel="0",permitlisten="8080"', True),
        ('restrict,permitopen="host.example:80"', False),
        ('restrict,port-forwarding,permitopen="host.example:80"', True),
    ],
)
def test_what_options_leave_open(options: str, is_open: bool) -> None:
    assert is_allowed(options, "host.example", 80) is is_open


@pytest.mark.parametrize(
    ("host", "port", "is_open"),
    [
        ("host.example", 80, True),
        ("HOST.example.", 80, True),
        ("host.example", 443, False),
        ("192.0.2.1", 1, True),
        ("192.0.2.1", 65535, True),
        ("2001:db8::1", 443, True),
        ("2001:DB8:0::1", 443, True),
        ("2001:db8::2", 443, False),
        ("anything", 22, True),
        ("host.example.evil", 80, False),
        ("", 80, False),
    ],
)
def test_permitopen(host: str, port: int, is_open: bool) -> None:
    options = ",".join(
        f'permitopen="{each}"'
        for each in ("host.example:80", "192.0.2.1:*", "[2001:db8::1]:443", "*:22")
    )
    assert is_allowed(options, host, port) is is_open


@pytest.mark.parametrize(
    ("patterns", "is_in"),
    [
        ("192.0.2.7", True),
        ("192.0.2.0/24", True),
        ("192.0.2.*", True),
        ("192.0.2.?", True),
        ("*", True),
        ("198.51.100.0/24,192.0.2.7", True),
        ("*,!192.0.2.7", False),
        ("!192.0.2.0/24,192.0.2.7", False),
        ("!198.51.100.0/24", False),
        ("198.51.100.0/24", False),
        ("2001:db8::/32", False),
        ("client.example", False),
        ("::ffff:192.0.2.7", True),
    ],
)
def test_from(patterns: str, is_in: bool) -> None:
    assert (entry(f'from="{patterns}"') is not None) is is_in


def test_from_matches_addresses_by_value() -> None:
    keys = parse(f'from="2001:DB8:0::7,192.0.2.7" {LINE}')
    assert keys.find(BLOB, "2001:db8::7", NOW)
    assert keys.find(BLOB, "::ffff:192.0.2.7", NOW)
    assert not keys.find(BLOB, "unknown", NOW)


@pytest.mark.parametrize(
    ("time", "is_in"),
    [
        ("20231115", True),
        ("20231114", False),
        ("202311142214", True),
        ("202311142213", False),
        ("20231114221321", True),
        ("20231114221320", False),
        ("20231114221321Z", True),
        ("20231114221320Z", False),
    ],
)
def test_expiry_time(time: str, is_in: bool) -> None:
    keys = parse(f'expiry-time="{time}" {LINE}', UTC)  # type: ignore[arg-type]
    assert (keys.find(BLOB, HERE, NOW) is not None) is is_in


def test_expiry_time_without_z_is_local() -> None:
    east = timezone(timedelta(hours=5))
    (local,) = parse(f'expiry-time="202311150314" {LINE}', east).entries
    (absolute,) = parse(f'expiry-time="202311142214Z" {LINE}', east).entries
    assert local.expires == absolute.expires


def test_earliest_of_two_expiry_times_counts() -> None:
    for times in (("20200101", "20990101"), ("20990101", "20200101")):
        options = ",".join(f'expiry-time="{time}"' for time in times)
        assert entry(options) is None


def test_first_line_that_holds_is_taken() -> None:
    keys = parse(f'expiry-time="20200101" {LINE}\nrestrict {LINE}\n{LINE}\n')
    found = keys.find(BLOB, HERE, NOW)
    assert found is not None
    assert found.grant.refusal("host.example", 80) == "port-forwarding"


def test_authority_lets_in_its_certificates_and_not_itself() -> None:
    keys = parse(f"cert-authority {LINE}")
    assert keys.find(BLOB, HERE, NOW) is None
    assert keys.find_authority(BLOB, ["alice", "bob"], "bob", HERE, NOW)
    assert not keys.find_authority(BLOB, ["alice"], "bob", HERE, NOW)
    assert not keys.find_authority(BLOB, [], "bob", HERE, NOW)
    assert not parse(LINE).find_authority(BLOB, ["bob"], "bob", HERE, NOW)


def test_principals_stand_in_for_the_user_name() -> None:
    keys = parse(f'cert-authority,principals="ops,net" {LINE}')
    assert keys.find_authority(BLOB, ["net"], "anybody", HERE, NOW)
    assert not keys.find_authority(BLOB, ["anybody"], "anybody", HERE, NOW)


def test_from_and_expiry_hold_for_authorities_too() -> None:
    for options in ('from="198.51.100.1"', 'expiry-time="20200101"'):
        keys = parse(f"cert-authority,{options} {LINE}")
        assert not keys.find_authority(BLOB, ["bob"], "bob", HERE, NOW)


@pytest.mark.parametrize(
    "options",
    [
        "unknown",
        'permitopne="host:1"',
        "permitopen",
        'permitopen="host"',
        'permitopen="host:0"',
        'permitopen="host:65536"',
        'permitopen=":80"',
        "permitopen=host:80",
        'permitopen="host:80',
        'restrict="yes"',
        "restrict,,no-pty",
        'from=""',
        'from="192.0.2.7/24"',
        'expiry-time="soon"',
        'expiry-time="20230231"',
        "verify-required",
        'from="192.0.2.7",from="*"',
        'principals="a",principals="b"',
        'principals="x"cert-authority',
    ],
)
def test_line_with_anything_not_understood_is_refused(options: str) -> None:
    keys = parse(f"{options} {LINE}\n{OTHER}\n")
    assert keys.find(BLOB, HERE, NOW) is None
    assert [number for number, _ in keys.refused] == [1]
    assert keys.find(KEYS[1].public_data, HERE, NOW)


@pytest.mark.parametrize(
    "line",
    [
        "ssh-ed25519",
        "ssh-ed25519 not-base64",
        pytest.param(f"ssh-rsa {LINE.split()[1]}", id="another type"),
        "restrict",
        "garbage garbage garbage",
    ],
)
def test_line_without_a_key_is_refused(line: str) -> None:
    keys = parse(line)
    assert keys.entries == ()
    assert len(keys.refused) == 1


def test_refusals_name_no_key() -> None:
    keys = parse(f"unknown {LINE} canary@example\nssh-ed25519 canary\n")
    assert "canary" not in repr(keys.refused)
    assert LINE.split()[1] not in repr(keys.refused)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    keys = parse(text)
    assert len(keys.entries) + len(keys.refused) <= len(text.splitlines())


@given(st.text(st.sampled_from('restic,permopen="\\*: \t1'), max_size=40))
def test_any_options_grant_nothing_by_accident(options: str) -> None:
    """What the options say is either understood or costs the line."""
    keys = parse(f"{options} {LINE}")
    assert len(keys.entries) + len(keys.refused) == 1
    for found in keys.entries:
        if "restrict" in options.lower() and "port-forwarding" not in options:
            assert not found.grant.may_forward
        if "permitopen" in options:
            assert found.grant.permit_open is not None
