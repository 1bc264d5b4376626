"""The parser of authorized_keys (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"). Pure.

A line is an optional list of options, a key type, the key in base64 and a comment. A line with
anything that is not understood is refused as a whole, with a reason, and grants nothing.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timezone

from asyncssh.packet import PacketDecodeError, SSHPacket

from vpn.endpoint import parse_port, split_host
from vpn.ssh.login import address_patterns
from vpn.ssh.login.authorized_keys import AuthorizedKeys, Entry
from vpn.ssh.login.grant import ANY_HOST, comparable

_WITHOUT_EFFECT = frozenset(
    prefix + name
    for prefix in ("", "no-")
    for name in ("agent-forwarding", "pty", "user-rc", "x11-forwarding")
)
_WITHOUT_EFFECT_VALUED = frozenset({"command", "environment", "permitlisten", "tunnel"})
_EXPIRY_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def parse(text: str, local: timezone | None = None) -> AuthorizedKeys:
    """Read the lines of an authorized_keys file; `local` is the zone of times without a Z."""
    entries = []
    refused = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            try:
                entries.append(_parse_line(line, local))
            except ValueError as error:
                refused.append((number, str(error)))
    return AuthorizedKeys(tuple(entries), tuple(refused))


def _parse_line(line: str, local: timezone | None) -> Entry:
    plain = _key_data(line)
    if plain is not None:
        return Entry(plain)
    end = _end_of_options(line)
    key_data = _key_data(line[end:].strip())
    if key_data is None:
        raise ValueError("no key that is understood")
    entry = Entry(key_data)
    for name, value in _split_options(line[:end]):
        entry = _apply(entry, name, value, local)
    return entry


def _key_data(text: str) -> bytes | None:
    """Return the blob of `type base64 [comment]`, or None if the text is not that."""
    fields = text.split(None, 2)
    if len(fields) < 2:
        return None
    try:
        blob = b64decode(fields[1], validate=True)
        named = SSHPacket(blob).get_string()
    except (binascii.Error, ValueError, PacketDecodeError):
        return None
    return blob if named == fields[0].encode("utf-8") else None


def _end_of_options(line: str) -> int:
    """Return where the options end: at the first space outside quotes."""
    is_quoted = False
    index = 0
    while index < len(line):
        character = line[index]
        if is_quoted and character == "\\" and line[index + 1 : index + 2] == '"':
            index += 1
        elif character == '"':
            is_quoted = not is_quoted
        elif character in " \t" and not is_quoted:
            return index
        index += 1
    raise ValueError("no key after the options")


def _split_options(text: str) -> Iterable[tuple[str, str | None]]:
    """Return names in lower case, and values without their quotes."""
    rest = text
    while rest:
        stop = next((i for i, character in enumerate(rest) if character in ",="), len(rest))
        name, rest = rest[:stop].lower(), rest[stop:]
        value = None
        if rest.startswith("="):
            value, rest = _quoted(rest[1:])
        yield name, value
        if rest and not rest.startswith(","):
            raise ValueError(f"no comma after {name}")
        rest = rest[1:]


def _quoted(text: str) -> tuple[str, str]:
    if not text.startswith('"'):
        raise ValueError("a value is not in quotes")
    value: list[str] = []
    index = 1
    while index < len(text):
        if text.startswith('\\"', index):
            index += 1
        elif text[index] == '"':
            return "".join(value), text[index + 1 :]
        value.append(text[index])
        index += 1
    raise ValueError("a quote is not closed")


def _apply(entry: Entry, name: str, value: str | None, local: timezone | None) -> Entry:
    if value is None:
        return _apply_flag(entry, name)
    if name == "permitopen":
        permitted = (entry.grant.permit_open or frozenset()) | {_destination(value)}
        return replace(entry, grant=replace(entry.grant, permit_open=permitted))
    if name == "from" and not entry.sources:
        return replace(entry, sources=address_patterns.parse(value))
    if name == "expiry-time":
        moment = _moment(value, local)
        return replace(entry, expires=min(moment, entry.expires or moment))
    if name == "principals" and entry.principals is None:
        return replace(entry, principals=tuple(value.split(",")))
    if name in _WITHOUT_EFFECT_VALUED:
        return entry
    raise ValueError(f"unknown or second option {name}")


def _apply_flag(entry: Entry, name: str) -> Entry:
    if name in ("restrict", "no-port-forwarding"):
        return replace(entry, grant=replace(entry.grant, may_forward=False))
    if name == "port-forwarding":
        return replace(entry, grant=replace(entry.grant, may_forward=True))
    if name == "cert-authority":
        return replace(entry, is_authority=True)
    if name == "no-touch-required":
        return replace(entry, needs_touch=False)
    if name in _WITHOUT_EFFECT:
        return entry
    raise ValueError(f"unknown option {name}")


def _destination(text: str) -> tuple[str, int | None]:
    host, port = split_host(text)
    if not port or not host:
        raise ValueError("permitopen is not host:port")
    return comparable(host), None if port == ANY_HOST else parse_port(port)


def _moment(text: str, local: timezone | None) -> float:
    """Return the Unix time of YYYYMMDD[HHMM[SS]][Z] (sshd(8), expiry-time)."""
    digits = text.removesuffix("Z").removesuffix("z")
    layout = _EXPIRY_FORMATS.get(len(digits))
    if layout is None or not digits.isascii() or not digits.isdigit():
        raise ValueError("expiry-time is not YYYYMMDD[HHMM[SS]][Z]")
    moment = datetime.strptime(digits, layout)
    return moment.replace(tzinfo=UTC if digits != text else local).timestamp()
