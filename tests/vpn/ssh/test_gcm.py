"""Our AES-GCM says what asyncssh's says, packet by packet, and refuses what is not the peer's."""

from asyncssh.encryption import GCMEncryption, get_encryption
from hypothesis import given
from hypothesis import strategies as st

from vpn.ssh import algorithms
from vpn.ssh.gcm import AesGcm

KEYS = st.sampled_from([16, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size))
IVS = st.binary(min_size=12, max_size=12)
BLOCK = 16


def pair(key: bytes, iv: bytes) -> tuple[AesGcm, GCMEncryption]:
    cipher = f"aes{len(key) * 8}-gcm"
    return AesGcm.new(cipher, key, iv), GCMEncryption.new(cipher, key, iv)


@given(KEYS, IVS, st.lists(st.binary(min_size=BLOCK, max_size=200), min_size=1, max_size=5))
def test_packets_are_those_of_asyncssh_both_ways(
    key: bytes, iv: bytes, packets: list[bytes]
) -> None:
    ours, theirs = pair(key, iv)
    receiver, _ = pair(key, iv)
    for seq, packet in enumerate(packets):
        header = len(packet).to_bytes(4)
        wire, mac = ours.encrypt_packet(seq, header, packet)
        assert (wire, mac) == theirs.encrypt_packet(seq, header, packet)
        first, length = receiver.decrypt_header(seq, wire[:BLOCK], 4)
        assert length == header
        assert receiver.decrypt_packet(seq, first, wire[BLOCK:], 4, mac) == packet


def test_counter_wraps_without_touching_the_fixed_part() -> None:
    ours, theirs = pair(bytes(16), b"salt" + b"\xff" * 8)
    for seq in range(3):
        packet = bytes(BLOCK)
        assert ours.encrypt_packet(seq, b"head", packet) == theirs.encrypt_packet(
            seq, b"head", packet
        )


@given(st.integers(0, 4 + BLOCK + 16 - 1), st.integers(0, 7))
def test_flipped_bit_is_refused(position: int, bit: int) -> None:
    sender, _ = pair(bytes(16), bytes(12))
    receiver, _ = pair(bytes(16), bytes(12))
    wire, mac = sender.encrypt_packet(0, BLOCK.to_bytes(4), bytes(BLOCK))
    broken = bytearray(wire + mac)
    broken[position] ^= 1 << bit
    packet, mac = bytes(broken[:-16]), bytes(broken[-16:])
    assert receiver.decrypt_packet(0, packet[:BLOCK], packet[BLOCK:], 4, mac) is None


def test_asyncssh_uses_it() -> None:
    for name in algorithms.SERVER_CIPHERS:
        size = 16 if "128" in name else 32
        assert type(get_encryption(name.encode(), bytes(size), bytes(12))) is AesGcm
