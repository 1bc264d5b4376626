"""The identity of a server: one Ed25519 key in a file of OpenSSH's private key format.

Theory of operation
-------------------
The key is the SSH host key, the key of the QUIC certificate and the node id; a client pins it once
and checks every layer against that pin. So it must never change by accident and never leak:

- it is made only by `generate`, never implicitly, and an existing file is never overwritten:
  the file is written and synced under another name, then linked to its own (link(2) refuses an
  existing name, rename(2) does not);
- whatever fails, no half-written key is left under the final name, and no temporary file either;
- it is read only from a regular file that nobody but its owner can read, checked on the open
  descriptor (a check on the name could be raced);
- the secret is not part of any `repr` and of no message.

Left out: passphrases (a service starts unattended; protect the file), other algorithms (a pin
then has one form), hardware keys.

The node id is the raw public key in base32 (RFC 4648, section 6), lower case, without padding:
52 characters, safe in DNS names, file names and URLs, and the same when typed in capitals.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import secrets
import shlex
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from vpn.endpoint import known_hosts_name
from vpn.errors import ConfigurationError
from vpn.linux.secret_files import is_open_to_others

ALGORITHM = "ssh-ed25519"  # RFC 8709, section 4
RAW_BYTES = 32  # RFC 8032, section 5.1.5
MAX_FILE_BYTES = 16384  # an Ed25519 key file has about 400


@dataclass(frozen=True, slots=True)
class Identity:
    """An Ed25519 key pair and the forms in which its public half is shown."""

    seed: bytes = field(repr=False)
    """The raw secret: 32 bytes (RFC 8032, section 5.1.5)."""

    @property
    def public(self) -> bytes:
        """The raw public key: 32 bytes."""
        return self._private_key().public_key().public_bytes_raw()

    @property
    def node_id(self) -> str:
        """The public key as 52 characters of lower-case base32."""
        return node_id_of(self.public)

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -l` prints it."""
        return fingerprint_of(self.public)

    @property
    def openssh_public(self) -> str:
        """One line of a `.pub` file, without comment and newline."""
        return public_line_of(self.public)

    def known_hosts_line(self, host: str, port: int) -> str:
        """Return the line which makes ssh(1) and our client accept this key at `host`."""
        return f"{known_hosts_name(host, port)} {self.openssh_public}"

    def openssh_private(self) -> bytes:
        """Return the content of the file of the secret, in OpenSSH's format, not encrypted."""
        return self._private_key().private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        )

    def _private_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def fingerprint_of(public: bytes) -> str:
    """Return `SHA256:…` of a raw public key, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(_ssh_blob(public)).digest()
    return "SHA256:" + base64.b64encode(digest).rstrip(b"=").decode()


def node_id_of(public: bytes) -> str:
    """Return the node id of a raw public key."""
    return base64.b32encode(public).rstrip(b"=").lower().decode()


def public_line_of(public: bytes) -> str:
    """Return a raw public key as a line of authorized_keys or a `.pub` file."""
    return f"{ALGORITHM} {base64.b64encode(_ssh_blob(public)).decode()}"


def generate(path: str | os.PathLike[str]) -> Identity:
    """Make a new identity at `path` (mode 0600) and its public half at `path`.pub (0644).

    Raises ConfigurationError if either exists or cannot be written; then nothing is left behind.
    """
    secret_path = Path(path)
    public_path = Path(f"{secret_path}.pub")
    for existing in (secret_path, public_path):
        if os.path.lexists(existing):
            raise _exists(existing)
    identity = Identity(secrets.token_bytes(RAW_BYTES))
    public_line = f"{identity.openssh_public}\n".encode()
    try:
        with (
            _written(secret_path, identity.openssh_private(), 0o600) as secret_temporary,
            _written(public_path, public_line, 0o644) as public_temporary,
            _published(secret_temporary, secret_path),
            _published(public_temporary, public_path),
        ):
            _sync_directory(secret_path.parent)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(
            f"cannot write key {secret_path}: {reason}; choose a directory that can be written"
        ) from error
    return identity


def load(path: str | os.PathLike[str]) -> Identity:
    """Read the identity at `path`.

    Raises ConfigurationError if the file is missing, readable by others, not ours or root's,
    not a regular file, encrypted, or not an Ed25519 key in OpenSSH format.
    """
    name = os.fspath(path)
    text = _read_private(name)
    try:
        key = load_ssh_private_key(text, password=None)
    except TypeError as error:
        raise ConfigurationError(
            f"cannot use key {name}: it is encrypted; remove the passphrase with "
            f"`ssh-keygen -p -f {shlex.quote(name)}`"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"cannot use key {name}: not a private key in OpenSSH format; "
            "make one with `overlay-vpn keygen`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"cannot use key {name}: not an Ed25519 key; make one with `overlay-vpn keygen`"
        )
    return Identity(key.private_bytes_raw())


def _ssh_blob(public: bytes) -> bytes:
    """Return the public key in SSH's wire format (RFC 8709, section 4)."""
    name = ALGORITHM.encode()
    return struct.pack(f">I{len(name)}sI", len(name), name, len(public)) + public


def _read_private(name: str) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            _check_private(name, os.fstat(descriptor))
            return os.read(descriptor, MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        remedy = (
            "make one with `overlay-vpn keygen`"
            if error.errno == errno.ENOENT
            else "check the owner and mode of the path"
        )
        raise ConfigurationError(
            f"cannot read key {name}: {os.strerror(error.errno or 0)}; {remedy}"
        ) from error


def _check_private(name: str, status: os.stat_result) -> None:
    quoted = shlex.quote(name)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"cannot use key {name}: not a regular file; give a key file")
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(
            f"cannot use key {name}: it belongs to user {status.st_uid}; "
            f"run `chown {os.geteuid()} {quoted}`"
        )
    if is_open_to_others(status, os.geteuid()):
        raise ConfigurationError(
            f"cannot use key {name}: others can read it (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"run `chmod 600 {quoted}`"
        )


def _exists(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"cannot write key {path}: the file exists and a key is never overwritten; "
        "choose another path or move it away"
    )


@contextmanager
def _written(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Yield a synced temporary file beside `path`; it is gone afterwards."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def _published(temporary: Path, path: Path) -> Iterator[None]:
    """Give the file its final name, and take it away again if the block fails."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise _exists(path) from error
    try:
        yield
    except BaseException:
        path.unlink()
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
