import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from vpn.transport.certificate import ed25519_key_of, self_signed

SEED = bytes(range(32))


def test_same_key_gives_the_same_bytes() -> None:
    first, second = (
        self_signed(Ed25519PrivateKey.from_private_bytes(SEED)).public_bytes(Encoding.DER)
        for _ in range(2)
    )
    assert first == second


def test_certificate_carries_its_key_and_signature() -> None:
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    certificate = self_signed(key)
    assert ed25519_key_of(certificate) == key.public_key().public_bytes_raw()
    certificate.verify_directly_issued_by(certificate)


@pytest.mark.parametrize("year", [2001, 2026, 9998])
def test_certificate_is_valid_whatever_the_clock_says(year: int) -> None:
    certificate = self_signed(Ed25519PrivateKey.from_private_bytes(SEED))
    now = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
    assert certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
