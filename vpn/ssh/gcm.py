"""AES-GCM for SSH packets (RFC 5647) with one cipher for all packets of a key.

asyncssh makes a new one for each packet, which is half the work of a small packet. `register` puts
this one in its place; the tests compare the two.
"""

from __future__ import annotations

from asyncssh.encryption import Encryption, register_encryption_alg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAC_BYTES = 16
_FIXED_BYTES = 4
_COUNTER_MASK = (1 << 64) - 1


class AesGcm(Encryption):
    """One direction of a connection, between two key exchanges."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._cipher = AESGCM(key)
        self._fixed = iv[:_FIXED_BYTES]
        self._counter = int.from_bytes(iv[_FIXED_BYTES:])

    @classmethod
    def new(
        cls,
        cipher_name: str,
        key: bytes,
        iv: bytes,
        mac_alg: bytes = b"",
        mac_key: bytes = b"",
        etm: bool = False,
    ) -> AesGcm:
        """Return what encrypts or decrypts with a key. Called by asyncssh."""
        return cls(key, iv)

    @classmethod
    def needs_mac(cls) -> bool:
        """Return that no algorithm for a MAC is to be agreed on."""
        return False

    @classmethod
    def get_mac_params(cls, mac_alg: bytes) -> tuple[int, int, bool]:
        """Return the size of the MAC's key and of the MAC, and that it covers the ciphertext."""
        return 0, _MAC_BYTES, True

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Return the header with the ciphertext, and the MAC."""
        sealed = self._cipher.encrypt(self._nonce(), packet, header)
        return header + sealed[:-_MAC_BYTES], sealed[-_MAC_BYTES:]

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        """Return the first block and the length in it, neither of which is encrypted."""
        return first_block, first_block[:header_len]

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        """Return the plaintext, None if it is not the peer's."""
        sealed = b"".join((first[header_len:], rest, mac))
        try:
            return self._cipher.decrypt(self._nonce(), sealed, first[:header_len])
        except InvalidTag:
            return None

    def _nonce(self) -> bytes:
        """Return the nonce of the next packet (RFC 5647 §7.1): fixed, and a counter that wraps."""
        nonce = self._fixed + self._counter.to_bytes(8)
        self._counter = (self._counter + 1) & _COUNTER_MASK
        return nonce


def register() -> None:
    """Have asyncssh use it."""
    for cipher in ("aes128-gcm", "aes256-gcm"):
        register_encryption_alg(f"{cipher}@openssh.com".encode(), AesGcm, cipher, True)
