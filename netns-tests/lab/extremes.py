"""Every message of a link with extreme values, made from its declaration alone; and random ones.

Encodings, not messages: what a hostile client sends need not be one.
"""

from __future__ import annotations

import itertools
import random
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import msgspec

INTEGERS = (
    0,
    1,
    -1,
    7,
    53,
    127,
    128,
    2**16,
    2**31,
    -(2**31),
    2**32,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)
TEXTS = (
    "",
    "a",
    "x" * 4096,
    "\0",
    "é漢\U0010ffff",
    "../../etc/passwd",
    "/run",
    "-h",
    "%s%n",
    "*",
    ".",
)
BYTES = (b"", b"\0" * 4, b"\xff" * 4, b"\0" * 16, b"\xff" * 16, b"\x0a\0\0\0", b"x" * 4096)
COUNTS = (0, 1, 2, 512, 513, 100_000)


def kinds(receives: Any) -> Sequence[Any]:
    """Return the message types of a union."""
    return typing.get_args(receives) or (receives,)


def values(hint: Any) -> list[Any]:
    """Return extreme values of a type, some of which it does not have, the sensible ones first."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [one for argument in arguments for one in values(argument)]
    if origin is typing.Literal:
        return [*arguments, "no", 0, None]
    if origin is tuple:
        inner = values(arguments[0])
        some = [inner[i % len(inner)] for i in range(64)]
        return [(), *((one,) for one in inner), some, *([inner[0]] * n for n in COUNTS)]
    if hint is bool:
        return [True, False, 2, None]
    if hint is int:
        return [*INTEGERS, 1.5, None, True, "1"]
    if hint is str:
        return [*TEXTS, b"bytes", None, 5]
    if hint is bytes:
        return [*BYTES, "text", None, 5]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [*(one.value for one in hint), "no", "", 0]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [*map(list, itertools.islice(_rows(hint), 200)), [], "no", None]
    raise TypeError(f"no values of {hint}")


def _rows(kind: type[msgspec.Struct]) -> Iterator[tuple[Any, ...]]:
    """Return the fields of a struct: all at their n-th value, and each one varied alone."""
    columns = [values(hint) for hint in _hints(kind).values()]
    for number in range(max(map(len, columns), default=1)):
        yield tuple(column[number % len(column)] for column in columns)
    for place, column in enumerate(columns):
        for other in range(3):
            for value in column:
                row = [one[other % len(one)] for one in columns]
                row[place] = value
                yield tuple(row)


def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in kind.__struct_fields__}


def encodings(kind: type[msgspec.Struct]) -> list[bytes]:
    """Return a message with extreme values, with fields too many and too few, each once."""
    tag = str(kind.__struct_config__.tag)
    fields = len(kind.__struct_fields__)
    rows: list[Any] = [[tag, *row] for row in _rows(kind)]
    rows += [[tag, *([0] * count)] for count in range(fields + 3)]
    rows += [[tag.upper(), *([0] * fields)], [tag], tag]
    return list(dict.fromkeys(map(msgspec.msgpack.encode, rows)))


def noise(valid: Sequence[bytes], largest: int, seed: int) -> Iterator[bytes]:
    """Return random packets without end: bytes, and messages with a few bytes changed."""
    dice = random.Random(seed)
    for number in itertools.count():
        if number % 4 == 0:
            yield dice.randbytes(dice.randrange(1, 64))
        elif number % 997 == 1:
            yield dice.randbytes(largest + dice.randrange(2))
        else:
            packet = bytearray(valid[dice.randrange(len(valid))][:256])
            for _ in range(dice.randrange(1, 4)):
                packet[dice.randrange(len(packet))] = dice.randrange(256)
            yield bytes(packet)
