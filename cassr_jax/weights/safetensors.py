"""A reader and writer of safetensors files that handles one tensor at a time.

A file is the length of its header (8 bytes, little-endian), the header (JSON: dtype, shape and offsets of every tensor)
and the data. `safetensors.numpy` is not used: it maps the file, whose pages then count as this process's memory beside
the parameters, it writes only tensors that are all in memory, and its older versions lack bfloat16.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import Json, is_file, parse_json, replaced
from cassr_jax.weights.tensors import ForeignTensor, StoredTensor

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MOST_AXES = 32
_METADATA = "__metadata__"
_MAX_HEADER = 100 * 10**6  # bytes, the format's own limit


def read_safetensors(path: Path | str) -> dict[str, StoredTensor | ForeignTensor]:
    """The tensors of a file by name, each to be read on demand; those of an unknown type cannot be read.

    The header is checked against the size of the file before memory is allocated.

    Raises:
        InputError: the file is absent, cut short or damaged.
    """
    path = Path(path)
    header, start, size = _header(path)
    return {name: _entry(path, name, entry, start, size) for name, entry in header.items() if name != _METADATA}


def read_metadata(path: Path | str) -> dict[str, str]:
    """The texts that a file's header holds beside its tensors, by name.

    Raises:
        InputError: the file is absent, cut short or damaged.
    """
    found = _header(Path(path))[0].get(_METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise InputError(f"{path}: the header's __metadata__ is damaged, expected texts by name")
    return found


def _header(path: Path) -> tuple[Json, int, int]:
    """The header, the place where the data start, and the size of the file."""
    if not is_file(path):
        raise InputError(f"{path}: there is no such file, expected weights as safetensors")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise InputError(f"{path}: cut short or not safetensors; its header claims {length} of {size} bytes")
        text = file.read(length)
    return parse_json(text, f"{path}: the header of safetensors"), 8 + length, size


def _entry(path: Path, name: str, entry: object, start: int, size: int) -> StoredTensor | ForeignTensor:
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(first), int(last)]}:
            pass
        case _:
            raise InputError(f"{path}: the header's entry for {name} is damaged")
    if code not in _DTYPES:
        return ForeignTensor(f"{path}: {name}", code)
    if len(shape) > _MOST_AXES or not all(type(side) is int and 0 <= side < 2**63 for side in shape):
        raise InputError(f"{path}: {name} has the impossible shape {str(shape)[:80]}")
    expected = math.prod(shape) * _DTYPES[code].itemsize
    if first < 0 or last - first != expected:
        raise InputError(f"{path}: {name} {code} {tuple(shape)} needs {expected} bytes, its entry has {last - first}")
    if start + last > size:
        raise InputError(f"{path}: cut short; {name} ends at byte {start + last} of {size}")
    return StoredTensor(path, start + first, tuple(shape), _DTYPES[code])


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors of these shapes and types, fetched one by one; the file appears only when complete.

    Args:
        metadata: texts that the header holds beside the tensors.

    Raises:
        InputError: the folder or file cannot be written.
    """
    # transformers refuses a file without the format.
    header: dict[str, object] = {_METADATA: {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, (shape, dtype) in shapes.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers that map the file need aligned data
    with replaced(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, dtype) in shapes.items():
            array = np.asarray(read(name), dtype, order="C")  # ascontiguousarray gives scalars an axis
            if array.shape != shape:
                raise ValueError(f"{name} is {array.shape}, {shape} was announced")
            file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
