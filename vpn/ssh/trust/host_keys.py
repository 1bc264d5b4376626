"""The policy for the host keys of a server: which are accepted, and the refusals for people.

Theory of operation
-------------------
One question is asked at two layers: is this key the server's? A transport that proves a key of
its own (QUIC) asks `check_peer` before it sends a byte; the SSH key exchange asks `check_ssh`
with a host key or a host certificate, and where the transport proved a key, both must be the
same: whoever ends the transport in the middle cannot also hold the SSH host key.

A key is the server's if one of these says so, and no file says `@revoked`:

1. the pin the user gave (`SHA256:…`); then nothing else counts;
2. a line of known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT") for `[host]:port`, or for the
   bare host when the port has no line of its own, as ssh(1) does it;
3. a certificate signed by a `@cert-authority` of such a line, valid now, for this host name;
4. `accept_new`, if no key at all is known for `[host]:port`.

At the transport layer 3 is not decided yet: an unknown key passes if an authority is known, and
the certificate of the SSH layer, which names the very same key, has the last word.

Never is a key accepted because nothing speaks against it. Left out: X.509, DNS (SSHFP without
DNSSEC proves nothing), asking the user.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace

from asyncssh.packet import String
from asyncssh.public_key import (
    CERT_TYPE_HOST,
    KeyImportError,
    SSHKey,
    SSHOpenSSHCertificate,
    decode_ssh_certificate,
    decode_ssh_public_key,
)

from vpn.errors import AuthenticationError
from vpn.identity import fingerprint_of
from vpn.ssh.algorithms import SIGNATURES
from vpn.ssh.trust.certificates import is_weakly_signed

ED25519 = b"ssh-ed25519"
_CERTIFICATE_SUFFIX = "-cert-v01@openssh.com"
_HOST_KEYS = [name for name in SIGNATURES if not name.startswith("sk-")]


@dataclass(frozen=True)
class KnownKeys:
    """The keys that the known_hosts files have for one server."""

    for_port: tuple[SSHKey, ...] = ()
    """Keys of `[host]:port`; on the standard port, of the host."""
    for_host: tuple[SSHKey, ...] = ()
    """Keys of the bare host, which may speak for another server on the same machine."""
    authorities: tuple[SSHKey, ...] = ()
    revoked: tuple[SSHKey, ...] = ()


@dataclass(frozen=True)
class HostKeys:
    """The policy for one server. `name` is how known_hosts writes it, `host` without the port."""

    host: str
    name: str
    known: KnownKeys = field(default_factory=KnownKeys)
    pin: str | None = None
    accept_new: bool = False

    def algorithms(self) -> list[str]:
        """Return the host key algorithms to offer, best first: known kinds of keys, if any."""
        keys = () if self.pin else (*self.known.for_port, *self.known.for_host)
        kinds = {name.decode("ascii") for key in keys for name in key.sig_algorithms}
        plain = [name for name in _HOST_KEYS if name in kinds] or _HOST_KEYS
        if self.pin or not self.known.authorities:
            return plain
        return [name + _CERTIFICATE_SUFFIX for name in _HOST_KEYS] + plain

    def check_peer(self, raw_ed25519: bytes) -> None:
        """Judge the key a transport proved. Raises AuthenticationError."""
        key = decode_ssh_public_key(String(ED25519) + String(raw_ed25519))
        self._refuse_revoked(key)
        if self.pin is None and self.known.authorities:
            return
        self._check_plain(key)

    def check_ssh(self, key_data: bytes, peer_key: bytes | None) -> SSHKey:
        """Judge the host key or certificate of a key exchange and return its key.

        `peer_key` is the raw Ed25519 key the transport proved, or None. Raises
        AuthenticationError.
        """
        try:
            certificate = decode_ssh_certificate(key_data)
        except KeyImportError:
            key = self._decode(key_data)
            self._refuse_revoked(key)
            self._check_plain(key)
        else:
            if not isinstance(certificate, SSHOpenSSHCertificate):
                raise AuthenticationError(f"the host key of {self.name} has an unknown form")
            key = certificate.key
            self._check_certificate(certificate)
        if peer_key is not None and key.public_data != String(ED25519) + String(peer_key):
            raise AuthenticationError(
                f"the transport to {self.name} ends at {fingerprint_of(peer_key)}, but the "
                f"SSH host key is {key.get_fingerprint()}: someone relays the connection; refused"
            )
        return key

    def is_new(self, key: SSHKey) -> bool:
        """Return whether an accepted key is to be added to known_hosts: no file had it before."""
        return (
            self.accept_new
            and self.pin is None
            and not self.known.authorities
            and key not in (*self.known.for_port, *self.known.for_host)
        )

    def after(self, key: SSHKey) -> HostKeys:
        """Return the policy once `key` was accepted: a new one is now known, and no other is."""
        if not self.is_new(key):
            return self
        return replace(self, known=replace(self.known, for_port=(key,)))

    def _decode(self, key_data: bytes) -> SSHKey:
        try:
            return decode_ssh_public_key(key_data)
        except KeyImportError:
            raise AuthenticationError(f"the host key of {self.name} has an unknown form") from None

    def _refuse_revoked(self, key: SSHKey) -> None:
        if key in self.known.revoked:
            raise AuthenticationError(
                f"the host key {key.get_fingerprint()} of {self.name} is revoked; refused"
            )

    def _check_plain(self, key: SSHKey) -> None:
        found = key.get_fingerprint()
        if self.pin is not None:
            if not hmac.compare_digest(found.encode(), self.pin.encode()):
                raise AuthenticationError(
                    f"the host key of {self.name} is {found}, not the pinned {self.pin}; "
                    "refused: someone may be in the middle, or the server has a new key"
                )
        elif key in self.known.for_port:
            pass
        elif self.known.for_port:
            raise AuthenticationError(
                f"the host key of {self.name} has changed to {found}; refused: someone may be in "
                "the middle. If the server has a new key, remove the old one with "
                f"`ssh-keygen -R '{self.name}'`"
            )
        elif key not in self.known.for_host and not self.accept_new:
            raise AuthenticationError(
                f"the host key of {self.name} is not known: {found}; compare it with the one the "
                "server shows, then connect once with --accept-new, or name it with --host-key"
            )

    def _check_certificate(self, certificate: SSHOpenSSHCertificate) -> None:
        authority = certificate.signing_key
        self._refuse_revoked(certificate.key)
        self._refuse_revoked(authority)
        reason = ""
        if self.pin is not None:
            self._check_plain(certificate.key)
            return
        if authority not in self.known.authorities:
            reason = f"its authority {authority.get_fingerprint()} is not known"
        elif is_weakly_signed(certificate):
            reason = "it is signed with SHA-1"
        elif self.host not in certificate.principals:
            reason = "it is for another host"
        else:
            try:
                certificate.validate(CERT_TYPE_HOST, self.host)
            except ValueError as error:
                reason = str(error)
        if reason:
            raise AuthenticationError(
                f"the host certificate of {self.name} is not valid: {reason}; refused"
            )
