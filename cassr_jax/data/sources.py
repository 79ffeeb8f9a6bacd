"""Where training pictures come from: random access to 8-bit RGB arrays by record number."""

import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, count
from math import gcd
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import files_below, read_json
from cassr_jax.imaging.inputs import READABLE_SUFFIXES
from cassr_jax.imaging.io import opaque, read

SET_INFO = "dataset_info.json"  # what TFDS puts beside a set's records
ATTEMPTS = 16  # records in a row that may be unreadable before the whole set counts as gone

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Source(Protocol[T_co]):
    """Random access to records of one kind; InputError on access to a damaged one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


PictureSource = Source[np.ndarray]
"""Random access to pictures, uint8 RGB (H, W, 3)."""


class PictureCache:
    """The most recently used pictures, kept decoded up to `max_bytes`; safe among threads. A pickled copy is empty."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._pictures: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, index: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Picture `index`, decoded now if it is not kept; read-only, since later readers share it."""
        with self._lock:
            if index in self._pictures:
                self._pictures.move_to_end(index)
                return self._pictures[index]
        image = decode()
        image.flags.writeable = False
        with self._lock:
            if index not in self._pictures:
                self._pictures[index] = image
                self._bytes += image.nbytes
            while self._bytes > self.max_bytes:
                self._bytes -= self._pictures.popitem(last=False)[1].nbytes
        return image

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return PictureCache, (self.max_bytes,)


def picture_files(folder: str | Path) -> list[str]:
    """The pictures of a folder and of its subfolders, links to folders too, as paths relative to it, sorted.

    Raises:
        InputError: the folder is missing, cannot be read, or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; expected a folder of pictures")
    files = (path for path in files_below(folder) if path.suffix.lower() in READABLE_SUFFIXES)
    keys = sorted(path.relative_to(folder).as_posix() for path in files)
    if not keys:
        expected = ", ".join(sorted(READABLE_SUFFIXES))
        raise InputError(f"{folder}: holds no picture; expected files ending in {expected}")
    return keys


def read_rgb(path: Path) -> np.ndarray:
    """The picture in a file, uint8 RGB (H, W, 3), upright, without its alpha.

    Raises:
        InputError: it cannot be read.
    """
    return opaque(read(path))


def find_set(path: str | Path) -> Path | None:
    """The folder of a set that TFDS prepared: `path` or, below it, NAME/VERSION or NAME/CONFIG/VERSION; else None.

    Raises:
        InputError: there are several, or a file of TFDS's name is damaged.
    """
    files = [file for depth in ("", "*/", "*/*/", "*/*/*/") for file in sorted(Path(path).glob(depth + SET_INFO))]
    found = [file.parent for file in files if _is_set(read_json(file, object))]
    if len(found) > 1:
        raise InputError(f"{path}: holds several sets, expected one of {', '.join(map(str, found))}")
    return found[0] if found else None


def _is_set(info: object) -> bool:
    """Other programs write a `dataset_info.json` too; TFDS's names the set, its version and a list of splits."""
    kinds = {"name": str, "version": str, "splits": list}
    return isinstance(info, Mapping) and all(isinstance(info.get(name), kind) for name, kind in kinds.items())


class FolderSource:
    """The pictures of a folder (and of its subfolders), sorted by name; a record is uint8 RGB (H, W, 3), upright.

    Grey is repeated, 16 bit brought to 8, CMYK converted, alpha dropped (see `cassr_jax.imaging.io`).
    `keys[i]` is record i's path relative to the folder. Pictures are decoded when asked for; the most recently used
    ones are kept decoded, up to `cache_bytes`. Safe to read from several threads, which decode at the same time; a
    pickled copy starts with an empty cache, so that worker processes each fill their own.

    Raises InputError when the folder is missing or holds no picture, and, on access, when a picture cannot be read.
    """

    def __init__(self, path: str | Path, *, cache_bytes: int = 1 << 30) -> None:
        self.path = Path(path)
        self.keys = picture_files(path)
        self._cache = PictureCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self.keys))[index]
        return self._cache.get(index, lambda: read_rgb(self.path / self.keys[index]))

    def __repr__(self) -> str:
        return f"FolderSource({str(self.path)!r}, {len(self.keys)} pictures)"


def find_part(bounds: Sequence[int], index: int) -> tuple[int, int]:
    """Which part holds record `index`, and its number there; part i holds `bounds[i]` to `bounds[i + 1]` - 1.

    Raises:
        IndexError: no part holds it. Negative numbers count from the end.
    """
    index = range(bounds[-1])[index]
    part = bisect_right(bounds, index) - 1
    return part, index - bounds[part]


class Joined(Sequence[T]):
    """The records of several sources, one source after the other; source i's are `bounds[i]` to `bounds[i + 1]` - 1."""

    def __init__(self, sources: Sequence[Source[T]]) -> None:
        self.sources = sources
        self.bounds = list(accumulate(map(len, sources), initial=0))

    def __len__(self) -> int:
        return self.bounds[-1]

    def __getitem__(self, index: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        part, number = find_part(self.bounds, index)
        return self.sources[part][number]


def read_or_replace(source: Source[T], index: int) -> tuple[int, T, int]:
    """Record `index`, or another one in its place where it cannot be read: number, record, how many were passed over.

    Which one depends on `index` alone, so a damaged record changes no other place of a stream, however many threads,
    processes or hosts make it. What is left out is named on stderr.

    Raises:
        InputError: ATTEMPTS records in a row cannot be read: it is not the records that are damaged.
    """
    size = len(source)
    # Far away, since the neighbours of a damaged record lie in the same file; and every record in its turn.
    stride = next(step for step in count(max(1, round(0.618 * size))) if gcd(step, size) == 1)
    errors: list[InputError] = []
    for number in ((index + attempt * stride) % size for attempt in range(min(ATTEMPTS, size))):
        try:
            return number, source[number], len(errors)
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            errors.append(error)
    raise InputError(f"{len(errors)} records in a row cannot be read; the last one: {errors[-1]}") from errors[-1]
