"""Tensors from the files of `torch.save` (`.pt`, `.pth`, `.ckpt`), without torch and without running their pickle.

Both formats are read: the zip archive of torch >= 1.6 and the older stream of pickles.
"""

import io
import mmap
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import is_file
from cassr_jax.weights.pickle_data import Global, Inert, read_pickle
from cassr_jax.weights.tensors import ForeignTensor, Shape, Tensor

_DTYPES: dict[str, np.dtype] = {
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_PICKLE = 64 * 2**20  # bytes; Stable Diffusion's 1,100 tensors take 0.3 MB
_MAX_DEPTH, _MAX_DIMENSIONS, _MAX_ENTRIES = 8, 16, 10**6

Storage = tuple[str, str, int]  # (key, name of its type, number of elements)


@dataclass(frozen=True)
class TorchTensor:
    """A view of a storage, which is read together with the tensor."""

    storage: Callable[[], np.ndarray]
    dtype: np.dtype
    offset: int  # in elements, as the strides are
    shape: Shape
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        steps = tuple(stride * self.dtype.itemsize for stride in self.strides)
        view = np.lib.stride_tricks.as_strided(self.storage()[self.offset :], self.shape, steps, writeable=False)
        return np.asarray(view, order="C")


class _Described:
    """A tensor as its pickle describes it, before its storage is found."""

    def __init__(self, storage: Storage | Inert, offset: int, shape: Shape, strides: tuple[int, ...], *_: object):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


_CALLS: Mapping[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor_v2": _Described,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "collections.OrderedDict": lambda: {},
}


def read_torch(path: Path | str) -> dict[str, Tensor]:
    """Every tensor of a file of `torch.save` by its dotted name (`params_ema.conv_first.weight`), to be read on demand.

    Nested dictionaries are flattened; plain data (epochs, names) are left out. Objects of other classes and tensors of
    unknown types cannot be read. bfloat16 becomes `ml_dtypes.bfloat16`.

    Raises:
        InputError: the file is damaged, or a tensor reaches beyond its storage.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: there is no such file, expected weights written by torch.save")
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    return _read_legacy(path)


def _read_zip(path: Path) -> dict[str, Tensor]:
    what = str(path)
    try:
        archive = zipfile.ZipFile(path)  # stays open as long as its tensors exist
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise InputError(f"{what}: the archive has no data.pkl, expected weights written by torch.save")
        root = pickles[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise InputError(f"{what}: the archive is compressed; torch.save never compresses")
        if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
            raise InputError(f"{what}: its entries claim more bytes than the file has")
        if entries[pickles[0]].file_size > _MAX_PICKLE:
            raise InputError(f"{what}: its pickle is larger than {_MAX_PICKLE} bytes")
        byteorder = entries.get(f"{root}byteorder")
        if byteorder is not None and archive.read(byteorder) != b"little":
            raise InputError(f"{what}: it was written in big-endian order, expected little-endian")
        tree = read_pickle(io.BytesIO(archive.read(pickles[0])), what, _CALLS, _persistent)
    except _DAMAGED as error:
        raise InputError(f"{what}: the archive is damaged ({error})") from error
    described = _flatten(tree, what)
    storages: dict[str, Callable[[], np.ndarray]] = {}
    for key, kind, count in _storages(described, what).values():
        entry, dtype = entries.get(f"{root}data/{key}"), _DTYPES[kind]
        if entry is None or entry.file_size != count * dtype.itemsize:
            found = "missing" if entry is None else f"{entry.file_size} bytes long"
            raise InputError(f"{what}: the storage {key} is {found}, expected {count * dtype.itemsize}")
        storages[key] = partial(_read_entry, archive, entry, dtype, what)
    return _tensors(described, storages, what)


_DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, UnicodeDecodeError)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, dtype: np.dtype, what: str) -> np.ndarray:
    try:
        return np.frombuffer(archive.read(entry), dtype)
    except _DAMAGED as error:
        raise InputError(f"{what}: the archive is damaged ({error})") from error


def _read_legacy(path: Path) -> dict[str, Tensor]:
    what = str(path)
    with path.open("rb") as file:
        try:
            data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InputError(f"{what}: the file is empty, expected weights written by torch.save") from error
    if data[:1] != b"\x80" or read_pickle(data, what, {}) != _LEGACY_MAGIC:
        raise InputError(f"{what}: neither a zip archive nor a pickle of torch.save")
    if (version := read_pickle(data, what, {})) != _LEGACY_PROTOCOL:
        raise InputError(f"{what}: version {version} of torch's format is unknown, expected {_LEGACY_PROTOCOL}")
    system = read_pickle(data, what, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError(f"{what}: it was written in big-endian order, expected little-endian")
    described = _flatten(read_pickle(data, what, _CALLS, _persistent), what)
    known = _storages(described, what)
    keys = read_pickle(data, what, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or not set(known) <= set(keys):
        raise InputError(f"{what}: its list of storages lacks some that its tensors use")
    storages: dict[str, Callable[[], np.ndarray]] = {}
    for key in keys:
        if key not in known:
            raise InputError(f"{what}: the storage {key} belongs to no tensor")
        _, kind, count = known[key]
        size, start = count * _DTYPES[kind].itemsize, data.tell() + 8
        if data.read(8) != count.to_bytes(8, "little") or start + size > len(data):
            raise InputError(f"{what}: the storage {key} is cut short, expected {size} bytes")
        storages[key] = partial(np.frombuffer, data, _DTYPES[kind], count, start)
        data.seek(start + size)
    return _tensors(described, storages, what)


def _persistent(identity: object) -> Storage | Inert:
    if not isinstance(identity, tuple):
        raise ValueError("a storage is described wrongly")
    tag, kind, key, _, count, *view = identity
    if tag != "storage" or not isinstance(kind, Global):
        raise ValueError("a storage is described wrongly")
    if kind.name not in _DTYPES:
        return Inert(kind.name)
    if not isinstance(key, str) or not _is_size(count) or any(part is not None for part in view):
        raise ValueError("a storage is described wrongly")
    return key, kind.name, count


def _storages(described: Mapping[str, _Described | Inert], what: str) -> dict[str, Storage]:
    """The storages that the tensors use, by key."""
    found: dict[str, Storage] = {}
    for tensor in described.values():
        if isinstance(tensor, _Described) and not isinstance(tensor.storage, Inert):
            key = tensor.storage[0]
            if found.setdefault(key, tensor.storage) != tensor.storage:
                raise InputError(f"{what}: the storage {key} is used as two types")
    return found


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _flatten(tree: object, what: str) -> dict[str, _Described | Inert]:
    if not isinstance(tree, dict):
        found = tree.name if isinstance(tree, Inert) else type(tree).__name__
        raise InputError(f"{what}: it holds a {found}, expected a dictionary of tensors")
    result: dict[str, _Described | Inert] = {}
    pending: list[tuple[str, dict, int]] = [("", tree, 0)]
    entries = 0
    while pending:
        prefix, node, depth = pending.pop()
        entries += 1 + len(node)
        if depth > _MAX_DEPTH or entries > _MAX_ENTRIES:
            raise InputError(f"{what}: more than {_MAX_DEPTH} dictionaries deep or {_MAX_ENTRIES} entries large")
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, _Described | Inert):
                result[name] = value
            elif isinstance(value, dict):
                pending.append((f"{name}.", value, depth + 1))
    return result


def _tensors(
    described: Mapping[str, _Described | Inert], storages: Mapping[str, Callable[[], np.ndarray]], what: str
) -> dict[str, Tensor]:
    def tensor(name: str, found: _Described | Inert) -> Tensor:
        if isinstance(found, Inert):
            return ForeignTensor(f"{what}: {name}", found.name)
        if isinstance(found.storage, Inert):
            return ForeignTensor(f"{what}: {name}", found.storage.name)
        key, kind, count = found.storage
        _check_view(found, count, f"{what}: {name}")
        return TorchTensor(storages[key], _DTYPES[kind], found.offset, found.shape, found.strides)

    return {name: tensor(name, found) for name, found in described.items()}


def _check_view(tensor: _Described, count: int, what: str) -> None:
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= _MAX_DIMENSIONS):
        raise InputError(f"{what}: its shape is damaged")
    if not all(map(_is_size, (offset, *shape, *strides))):
        raise InputError(f"{what}: its shape is damaged")
    if 0 in shape and prod(size for size in shape if size) < 2**32:
        return
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= count or prod(shape) > count:
        raise InputError(f"{what} {shape} reaches beyond its storage of {count} elements")
