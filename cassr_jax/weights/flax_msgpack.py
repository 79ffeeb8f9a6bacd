"""A reader of Flax's msgpack files (`diffusion_flax_model.msgpack`, `flax_model.msgpack`), one tensor at a time.

The format is that of `flax.serialization.to_bytes`: nested maps with arrays as leaves. Each array is an extension of
type 1 that holds (shape, name of the dtype, bytes), again in msgpack. flax's own reader needs twice the file's memory.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import is_file
from cassr_jax.weights.tensors import StoredTensor

_DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "bool": np.dtype(bool),
}
_ARRAY = 1  # flax's extension type
_MAX_DEPTH = 32
_MAX_NAME = 1024


class _Damaged(Exception):
    """The file breaks the format; the message names what was found."""


def read_flax_msgpack(path: Path | str) -> dict[str, StoredTensor]:
    """The arrays of a file by dotted name (`down_blocks_0.resnets_0.conv1.kernel`), each to be read on demand.

    Raises:
        InputError: the file is absent, cut short or damaged, or holds anything but maps and arrays.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: there is no such file, expected weights in Flax's msgpack format")
    with path.open("rb") as file:
        try:
            tensors = dict(_Reader(file, path).walk((), 0))
            if file.read(1):
                raise _Damaged("data behind its end")
        except (_Damaged, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cut short or not Flax's msgpack ({error} at byte {file.tell()})") from error
    return tensors


class _Reader:
    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path, self.size = file, path, path.stat().st_size

    def walk(self, parents: tuple[str, ...], depth: int) -> Iterator[tuple[str, StoredTensor]]:
        """The arrays in the next value, which is a map or a single array."""
        if depth > _MAX_DEPTH:
            raise _Damaged(f"maps nested more than {_MAX_DEPTH} deep")
        code = self._number("B")
        if 0x80 <= code <= 0x8F or code in (0xDE, 0xDF):
            count = code & 0x0F if code <= 0x8F else self._number("H" if code == 0xDE else "I")
            for _ in range(count):
                yield from self.walk((*parents, self._string()), depth + 1)
            return
        length, kind = self._extension(code)
        if kind != _ARRAY:
            raise _Damaged(f"an extension of type {kind}")
        end = self.file.tell() + length
        tensor = self._array(end)
        self.file.seek(end)
        yield ".".join(parents), tensor

    def _array(self, end: int) -> StoredTensor:
        if self._sequence() != 3:
            raise _Damaged("an array without shape, type and data")
        shape = tuple(self._integer() for _ in range(self._sequence()))
        name = self._string()
        if name not in _DTYPES:
            raise _Damaged(f"an array of type {name!r}")
        length = self._number({0xC4: "B", 0xC5: "H", 0xC6: "I"}.get(self._number("B"), ""))
        start = self.file.tell()
        if start + length != end or end > self.size or length != math.prod(shape) * _DTYPES[name].itemsize:
            raise _Damaged(f"an array {shape} of {name} in {length} bytes")
        return StoredTensor(self.path, start, shape, _DTYPES[name])

    def _extension(self, code: int) -> tuple[int, int]:
        if 0xD4 <= code <= 0xD8:
            return 1 << (code - 0xD4), self._number("b")
        length = self._number({0xC7: "B", 0xC8: "H", 0xC9: "I"}.get(code, ""))
        return length, self._number("b")

    def _string(self) -> str:
        code = self._number("B")
        length = code & 0x1F if 0xA0 <= code <= 0xBF else self._number({0xD9: "B", 0xDA: "H", 0xDB: "I"}.get(code, ""))
        if length > _MAX_NAME:
            raise _Damaged(f"a name of {length} bytes")
        return self._bytes(length).decode("utf-8")

    def _sequence(self) -> int:
        code = self._number("B")
        return code & 0x0F if 0x90 <= code <= 0x9F else self._number({0xDC: "H"}.get(code, ""))

    def _integer(self) -> int:
        code = self._number("B")
        return code if code < 0x80 else self._number({0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q"}.get(code, ""))

    def _number(self, form: str) -> int:
        if not form:
            raise _Damaged("an unexpected kind of value")
        return struct.unpack(f">{form}", self._bytes(struct.calcsize(form)))[0]

    def _bytes(self, length: int) -> bytes:
        data = self.file.read(length)
        if len(data) < length:
            raise _Damaged("its end")
        return data
