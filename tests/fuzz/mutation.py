"""Damaged variants of sound files, drawn from a seed.

The changes are those that AFL (M. Zalewski) and its successors have found most useful: single bits, bytes and numbers
at the edges of their types, parts that are cut out, doubled or taken from another file, and numbers in text.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

Draw = np.random.Generator
Change = Callable[[Draw, bytearray, bytes], bytearray]

EDGES = (0, 1, -1, 2, 16, 32, 64, 100, 127, -128, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1)
NUMBERS = (b"0", b"-1", b"1e400", b"NaN", b"4294967296", b"9" * 30, b"0.1", b"null", b'""', b"[]", b"{}", b"true")
MOST = 1 << 16  # bytes of a variant


def _place(draw: Draw, data: bytearray) -> int:
    return int(draw.integers(len(data)))


def flip_a_bit(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    data[_place(draw, data)] ^= 1 << int(draw.integers(8))
    return data


def set_a_byte(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    data[_place(draw, data)] = int(draw.integers(256))
    return data


def set_a_number(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    size, order = int(draw.choice([1, 2, 4, 8])), "little" if draw.random() < 0.5 else "big"
    value = int(draw.choice(EDGES)) % (1 << 8 * size)
    place = _place(draw, data)
    data[place : place + size] = value.to_bytes(size, order)
    return data


def add_to_a_number(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    place = _place(draw, data)
    data[place] = (data[place] + int(draw.integers(-35, 36))) % 256
    return data


def cut_out(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    start, end = sorted(draw.integers(len(data) + 1, size=2).tolist())
    return data[:start] + data[end:]


def cut_off(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    return data[: _place(draw, data)]


def double(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    start = _place(draw, data)
    part = data[start : start + int(draw.integers(1, 65))]
    return data[:start] + part * int(draw.integers(2, 9)) + data[start:]


def take_from_another(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    if not other:
        return data
    start, length = int(draw.integers(len(other))), int(draw.integers(1, 257))
    place = _place(draw, data)
    data[place : place + length] = other[start : start + length]
    return data


def change_text(draw: Draw, data: bytearray, other: bytes) -> bytearray:
    found = list(re.finditer(rb"-?\d+(\.\d+)?|true|false|null|\"[^\"]{0,40}\"", bytes(data)))
    if not found:
        return data
    match = found[int(draw.integers(len(found)))]
    return data[: match.start()] + bytes(NUMBERS[int(draw.integers(len(NUMBERS)))]) + data[match.end() :]


CHANGES: Sequence[Change] = (
    *(flip_a_bit, set_a_byte, set_a_number, set_a_number, add_to_a_number),
    *(cut_out, cut_off, double, take_from_another, change_text),
)


def mutated(draw: Draw, seeds: Sequence[bytes]) -> bytes:
    """A variant of one of the seeds, changed in one to eight places."""
    data, other = bytearray(seeds[int(draw.integers(len(seeds)))]), seeds[int(draw.integers(len(seeds)))]
    for _ in range(1 << int(draw.integers(4))):
        if data:
            data = CHANGES[int(draw.integers(len(CHANGES)))](draw, data, other)
    return bytes(data[:MOST])
