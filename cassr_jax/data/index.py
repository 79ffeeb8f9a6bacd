"""What has been found out about the files of a folder, kept between runs for as long as the files stay as they are.

An index is a file in the cache folder for each folder and kind of finding. A file counts as unchanged if its size and
its times of change are the same. What is new or has changed is looked at, and nothing else is opened.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from zipfile import BadZipFile

import numpy as np

from cassr_jax.compiled import cache_folder
from cassr_jax.errors import InputError
from cassr_jax.files import replaced

T = TypeVar("T")
Arrays = Mapping[str, Any]  # NumPy arrays by name
Stamp = tuple[int, int, int]  # size in bytes; times of the last change of content and of anything, in ns

INDICES = "CASSR_JAX_INDICES"
"""The environment variable that names the folder of indices; empty for none. By default it is in the cache folder."""


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of finding.

    Attributes:
        name: names it, and all that it depends on beside a file's content.
        pack: turns findings into arrays.
        unpack: turns the arrays into the findings again; errors of NumPy's tell that they are damaged.
    """

    name: str
    pack: Callable[[Sequence[T]], Arrays]
    unpack: Callable[[Arrays], Sequence[T]]


def indexed(
    folder: Path, keys: Sequence[str], kind: Kind[T], find: Callable[[Sequence[str]], Sequence[T | None]]
) -> list[T | None]:
    """What is known or can be found about each file `folder / key`.

    Args:
        find: finds it for some of the keys; None where it cannot, which is not kept.
    """
    file = _file(folder, kind)
    stamps = {key: _stamp(folder / key) for key in keys}
    known = {} if file is None else _read(file, kind)
    result: dict[str, T | None] = {key: known[key][1] for key in keys if key in known and known[key][0] == stamps[key]}
    unknown = [key for key in keys if key not in result]
    result |= zip(unknown, find(unknown), strict=True) if unknown else ()
    kept = {key: (stamp, value) for key, value in result.items() if value is not None and (stamp := stamps[key])}
    if file is not None and kept and (unknown or known.keys() != kept.keys()):
        with suppress(InputError):  # the cache folder may be read-only or full; then the files are looked at each time
            _write(file, kind, kept)
    return [result[key] for key in keys]


def _file(folder: Path, kind: Kind[T]) -> Path | None:
    """The file of an index; None if nothing is to be kept."""
    try:
        indices = os.environ.get(INDICES, str(cache_folder() / "indices"))
    except RuntimeError:
        return None
    name = hashlib.sha256(os.path.realpath(folder).encode(errors="surrogateescape")).hexdigest()[:24]
    return Path(indices) / f"{name}_{kind.name}.npz" if indices else None


def _stamp(path: Path) -> Stamp | None:
    """What tells whether a file has changed; None if it cannot be told."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _write(file: Path, kind: Kind[T], kept: Mapping[str, tuple[Stamp, T]]) -> None:
    stamps, values = zip(*kept.values(), strict=True)
    with replaced(file) as stream:
        arrays: Arrays = {"_keys": [*kept], "_stamps": np.array(stamps, np.int64), **kind.pack(values)}
        np.savez_compressed(stream, **arrays)


_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, zlib.error),
    *(BadZipFile, NotImplementedError, RuntimeError),  # of zipfile
    *(AttributeError, TypeError),  # NumPy gives the bytes of what is no array
)


def _read(file: Path, kind: Kind[T]) -> dict[str, tuple[Stamp, T]]:
    """What an index holds, by key; nothing if there is none, or if it is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream) as found:
            arrays = {name: found[name] for name in found.files}
        keys, stamps, values = arrays["_keys"].tolist(), arrays["_stamps"].tolist(), kind.unpack(arrays)
        entries = zip(keys, stamps, values, strict=True)
        return {key: ((size, changed, touched), value) for key, (size, changed, touched), value in entries}
    except _DAMAGED:
        return {}
