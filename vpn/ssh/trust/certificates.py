"""The checks of OpenSSH certificates that asyncssh leaves out (PROTOCOL.certkeys)."""

from __future__ import annotations

from asyncssh.packet import PacketDecodeError, SSHPacket, String
from asyncssh.public_key import SSHOpenSSHCertificate

from vpn.ssh.algorithms import SIGNATURES


def is_weakly_signed(certificate: SSHOpenSSHCertificate) -> bool:
    """Return whether the authority signed with an algorithm we do not accept (SHA-1).

    The blob ends with the authority's key and the signature, each a string (RFC 4251, section 5).
    """
    _, _, tail = certificate.public_data.rpartition(String(certificate.signing_key.public_data))
    return not is_accepted(_string(tail))


def is_accepted(signature: bytes) -> bool:
    """Return whether an SSH signature (RFC 4253, section 6.6) names an accepted algorithm."""
    return _string(signature).decode("ascii", "replace") in SIGNATURES


def _string(data: bytes) -> bytes:
    try:
        return SSHPacket(data).get_string()
    except PacketDecodeError:
        return b""
