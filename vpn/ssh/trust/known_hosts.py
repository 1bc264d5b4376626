"""The known_hosts files: the keys that they have for a server, and the line for a new one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from asyncssh.known_hosts import SSHKnownHosts
from asyncssh.public_key import SSHKey

from vpn.endpoint import known_hosts_name
from vpn.errors import ConfigurationError, UsageError
from vpn.ssh.trust.host_keys import HostKeys, KnownKeys
from vpn.transport.base import Address

USER_FILE = Path("~/.ssh/known_hosts")
SYSTEM_FILE = Path("/etc/ssh/ssh_known_hosts")
_FINGERPRINT = re.compile("SHA256:[A-Za-z0-9+/]{43}")
_MEANING_SOMETHING = frozenset(" ,*?!|#@\t\r\n")  # in the first field of a line


def name_of(address: Address) -> str:
    """Return the name of a server in known_hosts. Raises ConfigurationError."""
    host = address.host.lower()
    if not host or _MEANING_SOMETHING & set(host):
        raise ConfigurationError(f"{address.host!r} cannot be a host name")
    return known_hosts_name(host, address.port)


def find(texts: Iterable[str], address: Address) -> KnownKeys:
    """Return the keys that the contents of known_hosts files have for a server.

    Lines that mean nothing are passed over, as ssh(1) does; a broken one must not hide the rest.
    """
    table = SSHKnownHosts()
    for text in texts:
        for line in text.splitlines():
            try:
                table.load(line)
            except ValueError:
                continue
    named = table.match(name_of(address), "", None)
    bare = table.match(address.host.lower(), "", None)
    return KnownKeys(
        for_port=tuple(named[0]),
        for_host=tuple(bare[0]),
        authorities=tuple({*named[1], *bare[1]}),
        revoked=tuple({*named[2], *bare[2]}),
    )


def policy_for(
    address: Address,
    *,
    pin: str | None = None,
    accept_new: bool = False,
    files: Iterable[Path] = (USER_FILE, SYSTEM_FILE),
) -> HostKeys:
    """Read the files and return the policy for one server.

    Raises UsageError for a pin that is no fingerprint, else ConfigurationError.
    """
    if pin is not None and not _FINGERPRINT.fullmatch(pin):
        raise UsageError(f"{pin!r} is not a fingerprint: copy the server's, it is SHA256:…")
    return HostKeys(
        host=address.host.lower(),
        name=name_of(address),
        known=find(read(files), address),
        pin=pin,
        accept_new=accept_new,
    )


def read(paths: Iterable[Path]) -> list[str]:
    """Return the contents of the files that exist. Raises ConfigurationError."""
    texts = []
    for path in paths:
        try:
            texts.append(path.expanduser().read_text("utf-8", "replace"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {path}: {error.strerror}; correct its permissions"
            ) from error
    return texts


def add(path: Path, name: str, key: SSHKey) -> None:
    """Append a server's key to a known_hosts file, in one write. Raises ConfigurationError."""
    path = path.expanduser()
    exported = key.convert_to_public().export_public_key().decode("ascii").split()
    line = f"{name} {exported[0]} {exported[1]}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = "\n" + line
            os.write(descriptor, line.encode("utf-8"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(
            f"cannot add the host key to {path}: {error.strerror}; connect with --host-key instead"
        ) from error
