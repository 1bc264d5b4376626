"""The pool of virtual addresses, and the names that they stand for.

Theory of operation
-------------------
The pool is a hash table whose slot numbers are addresses: slot `n` is the address number
`FIRST_INDEX + n` of the IPv4 network and of the IPv6 network alike. The search for a name starts at
the slot of its keyed hash and goes on by triangular steps, at most `MAX_PROBES`. So a name gets the
same address again after a restart, and without the key two names cannot be aimed at one slot.

The table is a flat buffer that the caller owns, so that it can outlive the process: a process
that opens the buffer of a killed one finds every name at its address. There is no other copy. A
record is the time of the last answer, one octet of state, and the name:

    0        8      9                        262   264
    | double | state | name, at most 253 octets | pad |

In front of the records are a fingerprint of the arguments and the number of slots ever used.

The state is the length of the name, or `NEVER_USED` (0), or `BEING_WRITTEN` (255).

Invariants:

- A slot that was once used is never `NEVER_USED` again. So a search may stop at such a slot: the
  name was never put behind it. Names are not deleted, they are replaced.
- A name is replaced only while no flow pins it and `QUARANTINE_S` after its last answer or the end
  of its last flow: applications keep addresses for longer than any TTL. If every slot that a name
  may have is still held, there is no address for it; there is never a wrong one.
- A process may die between any two stores. The state is `BEING_WRITTEN` while the rest of a record
  is not valid, and becomes its length last. The two values that change in place, the time and the
  state, are one aligned machine store each. (The number of slots used is only shown: each such
  death may leave it one short.)

The time is CLOCK_BOOTTIME or CLOCK_MONOTONIC in seconds, one of them for the life of the buffer:
they are the same in every process, and a wall clock that jumps would free addresses in use.

Pins belong to the process, because flows do: one that takes over flows pins their names again
before its first `assign`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

SLOTS = 65536
QUARANTINE_S = 600.0
FIRST_INDEX = 16
"""The addresses below it are those of the network itself, the device and the resolver."""
MAX_PROBES = 64
"""With nine slots in ten held, one new name in a thousand finds no free one."""

NEVER_USED = 0
BEING_WRITTEN = 255
_MAX_TEXT = 253

# Native order and alignment: the buffer never leaves the machine, and a double is one store.
_HEADER = struct.Struct("@QQ")
_COUNT = struct.Struct("@Q")
_USED = 8
_TOUCHED = struct.Struct("@d")
_STATE = 8
_NAME = 9
_RECORD = 264
_LAYOUT = b"overlay-vpn pool 2"


def buffer_size(slots: int = SLOTS) -> int:
    """Return the size in octets of the buffer for so many slots."""
    return _HEADER.size + slots * _RECORD


class Pool:
    """A map from names to pairs of virtual addresses, and back.

    `buffer` has `buffer_size(slots)` octets: zeros, or what a pool with the same arguments left.
    `key` is 1 to 64 secret octets and lives as long as the buffer. `slots` is a power of two.

    Raises ValueError if the arguments do not fit each other, or the buffer is another pool's.
    """

    def __init__(
        self,
        buffer: memoryview,
        net4: IPv4Network,
        net6: IPv6Network,
        key: bytes,
        slots: int = SLOTS,
    ) -> None:
        # The last address is the broadcast address of the IPv4 network.
        if slots & slots - 1 or not 0 < slots < net4.num_addresses - FIRST_INDEX:
            raise ValueError(f"{slots} slots do not fit {net4}")
        if slots >= net6.num_addresses - FIRST_INDEX:
            raise ValueError(f"{slots} slots do not fit {net6}")
        if not key:
            raise ValueError("the key is empty")
        self._memory = buffer.cast("B")
        if len(self._memory) != buffer_size(slots):
            raise ValueError(f"the buffer is not of {buffer_size(slots)} octets")
        self._net4 = net4
        self._net6 = net6
        self._first4 = int(net4.network_address) + FIRST_INDEX
        self._first6 = int(net6.network_address) + FIRST_INDEX
        self._key = key
        self._slots = slots
        self._pins: dict[int, int] = {}
        self._open()

    def assign(self, name: str, now: float) -> tuple[IPv4Address, IPv6Address] | None:
        """Return the addresses of a name for an answer at `now`, None if none is free.

        `name` is a host name in lower case without trailing dot, at most 253 characters.
        """
        wanted = name.encode("ascii")
        slot, is_held = self._place(wanted, now)
        if slot is None:
            return None
        if is_held:
            _TOUCHED.pack_into(self._memory, _offset(slot), now)
        else:
            is_new = self._memory[_offset(slot) + _STATE] == NEVER_USED
            self._write(_offset(slot), wanted, now)
            _COUNT.pack_into(self._memory, _USED, self.used + is_new)
        return self._addresses(slot)

    def peek(self, name: str, now: float) -> tuple[tuple[IPv4Address, IPv6Address] | None, bool]:
        """Return what `assign` would, and whether the name has it already. Changes nothing."""
        slot, is_held = self._place(name.encode("ascii"), now)
        return None if slot is None else self._addresses(slot), is_held

    @property
    def slots(self) -> int:
        """The number of addresses of each family."""
        return self._slots

    @property
    def used(self) -> int:
        """How many of the slots have a name."""
        (used,) = _COUNT.unpack_from(self._memory, _USED)
        return int(used)

    @property
    def pinned(self) -> int:
        """How many of the slots are pinned by flows."""
        return len(self._pins)

    def name_of(self, address: IPv4Address | IPv6Address) -> str | None:
        """Return the name that an address stands for, None if for none."""
        slot = self._slot_of(address)
        return None if slot is None else self._name_at(_offset(slot))

    def contains(self, address: IPv4Address | IPv6Address) -> bool:
        """Say whether an address lies in the networks of the pool, assigned or not."""
        return address in self._net4 or address in self._net6

    def pin(self, name: str) -> None:
        """Keep the addresses of a name until as many calls of `unpin`.

        Raises KeyError if it has none.
        """
        slot = self._find(name)
        self._pins[slot] = self._pins.get(slot, 0) + 1

    def unpin(self, name: str, now: float) -> None:
        """Undo one `pin`; the quarantine starts again at `now`. Raises KeyError without a pin."""
        slot = self._find(name)
        left = self._pins[slot] - 1
        if left:
            self._pins[slot] = left
        else:
            del self._pins[slot]
        _TOUCHED.pack_into(self._memory, _offset(slot), now)

    def _open(self) -> None:
        description = repr((_LAYOUT, self._net4, self._net6, self._slots)).encode()
        digest = hashlib.blake2b(description, key=self._key, digest_size=_COUNT.size).digest()
        (ours,) = _COUNT.unpack(digest)
        (found,) = _COUNT.unpack_from(self._memory)
        if found not in (0, ours):
            raise ValueError("the buffer belongs to another pool")
        _COUNT.pack_into(self._memory, 0, ours)

    def _probe(self, name: bytes) -> Iterator[int]:
        digest = hashlib.blake2b(name, key=self._key, digest_size=8).digest()
        slot = int.from_bytes(digest, "little")
        # Triangular steps visit every slot once if the number of slots is a power of two.
        for step in range(1, min(self._slots, MAX_PROBES) + 1):
            yield slot & self._slots - 1
            slot += step

    def _holds(self, at: int, name: bytes) -> bool:
        start = at + _NAME
        return (
            self._memory[at + _STATE] == len(name)
            and self._memory[start : start + len(name)] == name
        )

    def _is_free(self, slot: int, now: float) -> bool:
        at = _offset(slot)
        if self._memory[at + _STATE] in (NEVER_USED, BEING_WRITTEN):
            return True
        (touched,) = _TOUCHED.unpack_from(self._memory, at)
        return slot not in self._pins and bool(now - touched >= QUARANTINE_S)

    def _place(self, wanted: bytes, now: float) -> tuple[int | None, bool]:
        """Return the slot that a name has or may get, and whether it has it."""
        if not 0 < len(wanted) <= _MAX_TEXT:
            raise ValueError(f"{wanted!r} is not a name")
        free = None
        for slot in self._probe(wanted):
            at = _offset(slot)
            if self._holds(at, wanted):
                return slot, True
            if free is None and self._is_free(slot, now):
                free = slot
            if self._memory[at + _STATE] == NEVER_USED:
                break
        return free, False

    def _write(self, at: int, name: bytes, now: float) -> None:
        start = at + _NAME
        self._memory[at + _STATE] = BEING_WRITTEN
        self._memory[start : start + len(name)] = name
        _TOUCHED.pack_into(self._memory, at, now)
        self._memory[at + _STATE] = len(name)

    def _find(self, name: str) -> int:
        wanted = name.encode("ascii")
        for slot in self._probe(wanted):
            if self._holds(_offset(slot), wanted):
                return slot
        raise KeyError(name)

    def _name_at(self, at: int) -> str | None:
        length = self._memory[at + _STATE]
        if length in (NEVER_USED, BEING_WRITTEN):
            return None
        return bytes(self._memory[at + _NAME : at + _NAME + length]).decode("ascii")

    def _slot_of(self, address: IPv4Address | IPv6Address) -> int | None:
        slot = int(address) - (self._first4 if address.version == 4 else self._first6)
        return slot if 0 <= slot < self._slots else None

    def _addresses(self, slot: int) -> tuple[IPv4Address, IPv6Address]:
        return IPv4Address(self._first4 + slot), IPv6Address(self._first6 + slot)


def _offset(slot: int) -> int:
    return _HEADER.size + slot * _RECORD
