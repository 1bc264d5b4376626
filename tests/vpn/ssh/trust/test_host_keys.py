"""Who may be the server, at both layers."""

from typing import Any

import asyncssh
import pytest
from asyncssh.public_key import SSHKey

from vpn.errors import AuthenticationError
from vpn.ssh.trust.host_keys import HostKeys, KnownKeys

HOST, NAME = "host.example", "[host.example]:4422"


def new_key(algorithm: str = "ssh-ed25519") -> SSHKey:
    return asyncssh.generate_private_key(algorithm)


KEY, OTHER, AUTHORITY = new_key(), new_key(), new_key()
ECDSA = new_key("ecdsa-sha2-nistp256")


def raw(key: SSHKey) -> bytes:
    return key.public_data[-32:]


def public(*keys: SSHKey) -> tuple[SSHKey, ...]:
    return tuple(key.convert_to_public() for key in keys)


def policy(known: KnownKeys | None = None, **options: Any) -> HostKeys:
    return HostKeys(HOST, NAME, known or KnownKeys(), **options)


def certificate(key: SSHKey = KEY, authority: SSHKey = AUTHORITY, **options: Any) -> bytes:
    arguments: dict[str, Any] = {"principals": [HOST]} | options
    return authority.generate_host_certificate(key, "test", **arguments).public_data


def refusal(policy: HostKeys, data: bytes, peer: bytes | None = None) -> str:
    with pytest.raises(AuthenticationError) as refused:
        policy.check_ssh(data, peer)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def refusal_of_peer(policy: HostKeys, key: SSHKey) -> str:
    with pytest.raises(AuthenticationError) as refused:
        policy.check_peer(raw(key))
    return str(refused.value)


def test_nothing_known_is_refused_at_both_layers() -> None:
    for text in (refusal(policy(), KEY.public_data), refusal_of_peer(policy(), KEY)):
        assert KEY.get_fingerprint() in text
        assert "--accept-new" in text


@pytest.mark.parametrize("place", ["for_port", "for_host"])
def test_known_is_accepted_at_both_layers(place: str) -> None:
    known = policy(KnownKeys(**{place: public(OTHER, KEY)}))
    known.check_peer(raw(KEY))
    assert known.check_ssh(KEY.public_data, raw(KEY)).public_data == KEY.public_data


def test_changed_is_refused_at_both_layers_even_if_new_ones_are_accepted() -> None:
    changed = policy(KnownKeys(for_port=public(OTHER)), accept_new=True)
    for text in (refusal(changed, KEY.public_data), refusal_of_peer(changed, KEY)):
        assert "has changed" in text
        assert f"ssh-keygen -R '{NAME}'" in text


def test_key_of_another_kind_is_a_changed_key() -> None:
    assert "changed" in refusal(
        policy(KnownKeys(for_port=public(ECDSA)), accept_new=True), KEY.public_data
    )


def test_another_server_on_the_same_host_is_unknown_not_changed() -> None:
    beside = KnownKeys(for_host=public(OTHER))
    assert "is not known" in refusal(policy(beside), KEY.public_data)
    policy(beside, accept_new=True).check_ssh(KEY.public_data, None)


def test_new_is_accepted_and_remembered_only_when_asked() -> None:
    asked = policy(accept_new=True)
    asked.check_peer(raw(KEY))
    assert asked.is_new(asked.check_ssh(KEY.public_data, raw(KEY)))
    assert not policy(KnownKeys(for_port=public(KEY)), accept_new=True).is_new(*public(KEY))
    assert not policy(accept_new=True, pin=KEY.get_fingerprint()).is_new(KEY)


def test_key_that_was_accepted_as_new_is_the_only_one_from_then_on() -> None:
    asked = policy(accept_new=True)
    again = asked.after(*public(KEY))
    assert not again.is_new(again.check_ssh(KEY.public_data, raw(KEY)))
    assert "has changed" in refusal(again, OTHER.public_data)
    known = policy(KnownKeys(for_port=public(KEY, OTHER)))
    assert known.after(*public(KEY)) is known


def test_pin_alone_decides() -> None:
    pinned = policy(KnownKeys(for_port=public(OTHER)), pin=KEY.get_fingerprint(), accept_new=True)
    pinned.check_peer(raw(KEY))
    pinned.check_ssh(KEY.public_data, raw(KEY))
    assert "pinned" in refusal(pinned, OTHER.public_data)
    assert "pinned" in refusal_of_peer(pinned, OTHER)


def test_revoked_is_refused_even_if_known_or_pinned() -> None:
    known = KnownKeys(for_port=public(KEY), revoked=public(KEY))
    for revoking in (policy(known), policy(known, pin=KEY.get_fingerprint())):
        assert "revoked" in refusal(revoking, KEY.public_data)
        assert "revoked" in refusal_of_peer(revoking, KEY)


def test_relay_which_ends_the_transport_is_refused() -> None:
    """The relay shows a key of its own below, and passes SSH on to the real server."""
    known = policy(KnownKeys(for_port=public(KEY, OTHER)))
    known.check_peer(raw(OTHER))
    assert "relay" in refusal(known, KEY.public_data, raw(OTHER))


def test_other_kind_of_key_above_a_proven_one_is_refused() -> None:
    known = policy(KnownKeys(for_port=public(ECDSA, KEY)))
    assert "relay" in refusal(known, ECDSA.public_data, raw(KEY))


def test_certificate_vouches_for_an_unknown_key() -> None:
    vouched = policy(KnownKeys(authorities=public(AUTHORITY)))
    vouched.check_peer(raw(KEY))
    assert vouched.check_ssh(certificate(), raw(KEY)).public_data == KEY.public_data
    assert "relay" in refusal(vouched, certificate(), raw(OTHER))


def test_authority_alone_does_not_vouch_for_a_plain_key() -> None:
    vouched = policy(KnownKeys(authorities=public(AUTHORITY)))
    vouched.check_peer(raw(KEY))
    assert "is not known" in refusal(vouched, KEY.public_data, raw(KEY))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"authority": OTHER}, "its authority"),
        ({"principals": ["elsewhere.example"]}, "another host"),
        ({"principals": []}, "another host"),
        ({"valid_before": "20200101"}, "expired"),
        ({"valid_after": "20990101"}, "not yet valid"),
    ],
)
def test_certificate_that_does_not_hold(changes: dict[str, Any], reason: str) -> None:
    vouched = policy(KnownKeys(authorities=public(AUTHORITY)), accept_new=True)
    assert reason in refusal(vouched, certificate(**changes))


def test_user_certificate_is_no_host_certificate() -> None:
    vouched = policy(KnownKeys(authorities=public(AUTHORITY)))
    user = AUTHORITY.generate_user_certificate(KEY, "test", principals=[HOST])
    assert "not valid" in refusal(vouched, user.public_data)


def test_revoked_key_or_authority_of_a_certificate() -> None:
    for revoked in (KEY, AUTHORITY):
        known = KnownKeys(authorities=public(AUTHORITY), revoked=public(revoked))
        assert "revoked" in refusal(policy(known), certificate())


def test_certificate_signed_with_sha1() -> None:
    authority = new_key("ssh-rsa")
    vouched = policy(KnownKeys(authorities=public(authority)))
    strong = certificate(authority=authority, sig_alg="rsa-sha2-512")
    assert vouched.check_ssh(strong, None).public_data == KEY.public_data
    weak = certificate(authority=authority, sig_alg="ssh-rsa")
    assert "SHA-1" in refusal(vouched, weak)


def test_bytes_that_are_no_key() -> None:
    assert "unknown form" in refusal(policy(accept_new=True), b"\0\0\0\1x")


def test_known_kinds_of_keys_are_asked_for() -> None:
    assert policy(KnownKeys(for_port=public(ECDSA))).algorithms() == ["ecdsa-sha2-nistp256"]
    assert policy().algorithms()[0] == "ssh-ed25519"
    assert "ssh-rsa" not in policy(KnownKeys(for_port=public(new_key("ssh-rsa")))).algorithms()
    vouched = policy(KnownKeys(authorities=public(AUTHORITY))).algorithms()
    assert vouched[0] == "ssh-ed25519-cert-v01@openssh.com"
    assert "ssh-ed25519" in vouched
