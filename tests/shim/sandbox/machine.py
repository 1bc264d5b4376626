"""The kernel's classic BPF machine, as far as filters of ours use it: the slow obvious model."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from shim.sandbox.seccomp import Instruction

X86_64 = 0xC000003E
AARCH64 = 0xC00000B7


def run(
    program: Sequence[Instruction], architecture: int, number: int, arguments: Sequence[int] = ()
) -> int:
    """Return the verdict of a filter about a call. Raises AssertionError if it is no program."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]  # an end without a verdict is an IndexError
        at += 1
        match code:
            case 0x20:
                assert operand % 4 == 0
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x45:
                at += if_true if accumulator & operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"no instruction of ours: {code:#x}")
