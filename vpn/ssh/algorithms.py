"""The algorithms both sides accept: AEAD first, post-quantum key exchange first, no SHA-1.

ChaCha20-Poly1305 is left out: it is half as fast here, and the Terrapin prefix truncation
(CVE-2023-48795) works against it wherever a peer lacks strict key exchange. AES-GCM is immune.
The counter modes are for foreign servers built without GCM (dropbear by default).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncssh.kex import get_kex_algs

from vpn.ssh import gcm

gcm.register()

_KEX_PREFERENCE = (
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
_AVAILABLE = {name.decode("ascii") for name in get_kex_algs()}

# The post-quantum ones need a recent OpenSSL or liboqs.
KEX = [name for name in _KEX_PREFERENCE if name in _AVAILABLE]
SERVER_CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"]
CLIENT_CIPHERS = [*SERVER_CIPHERS, "aes128-ctr", "aes192-ctr", "aes256-ctr"]
MACS = [
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
]
SIGNATURES = [
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
]

# RFC 4344, section 3.2 allows 2^32 blocks of 16 bytes and 2^31 packets under one key; half of
# the former keeps the latter for packets of 16 bytes and up.
REKEY_BYTES = 32 << 30
REKEY_S = 3600

OPTIONS: Mapping[str, Any] = {
    "kex_algs": KEX,
    "mac_algs": MACS,
    "signature_algs": SIGNATURES,
    "compression_algs": ["none"],
    "rekey_bytes": REKEY_BYTES,
    "rekey_seconds": REKEY_S,
    "password_auth": False,
    "kbdint_auth": False,
    "host_based_auth": False,
    "gss_host": None,
    "x509_trusted_certs": None,
    "utf8_decode_errors": "replace",  # the texts of the other side are in the words of its locale
}
"""The options of asyncssh that are the same on both sides: public keys and nothing else log in."""
