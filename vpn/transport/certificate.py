"""The self-signed certificate that carries a server's Ed25519 key into TLS 1.3.

There is no chain and no name to check: the client compares the key. The server signs the handshake
with it (RFC 8446, section 4.4.3), which proves that it holds the private key.
"""

from __future__ import annotations

import datetime
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from vpn.errors import AuthenticationError

COMMON_NAME = "overlay-vpn"
SERIAL_BYTES = 19  # RFC 5280, section 4.1.2.2: at most 20 bytes, and positive
VALID_FROM = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)  # before any wrong clock
VALID_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""No well-defined expiration date (RFC 5280, section 4.1.2.5)."""


def self_signed(key: Ed25519PrivateKey) -> x509.Certificate:
    """Return the certificate of a key; the same key gives the same bytes."""
    public = key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    digest = hashlib.sha256(public.public_bytes_raw()).digest()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(int.from_bytes(digest[:SERIAL_BYTES]) | 1)
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_UNTIL)
        .sign(key, algorithm=None)  # Ed25519 brings its own hash (RFC 8410, section 6)
    )


def ed25519_key_of(certificate: x509.Certificate) -> bytes:
    """Return the raw public key of a certificate (32 bytes).

    Raises AuthenticationError for any other kind of key.
    """
    try:
        public = certificate.public_key()
    except ValueError as error:
        raise AuthenticationError(f"the server's certificate has no valid key: {error}") from error
    if not isinstance(public, Ed25519PublicKey):
        raise AuthenticationError(
            "the server's certificate has no Ed25519 key; it is not a server of overlay-vpn"
        )
    return public.public_bytes_raw()
