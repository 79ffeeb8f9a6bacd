"""Sources of training pictures: random access to 8-bit RGB arrays by record number."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, count
from math import gcd
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import files_below, is_folder, read_json
from cassr_jax.imaging.inputs import READABLE_SUFFIXES
from cassr_jax.imaging.io import opaque, read
from cassr_jax.imaging.pixels import shallow
from cassr_jax.printing import complain

SET_INFO = "dataset_info.json"  # the file that TFDS writes beside a set's records
ATTEMPTS = 16  # after so many unreadable records in a row, the whole set counts as unreadable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Source(Protocol[T_co]):
    """Random access to records of one kind; access to a damaged record raises InputError."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


PictureSource = Source[np.ndarray]
"""Random access to pictures, uint8 RGB (H, W, 3)."""


class NamedSource(PictureSource, Protocol):
    """Pictures that errors can name."""

    def origin(self, index: int) -> str:
        """The file that holds picture `index`, and its place there if it holds several."""
        ...


class PictureCache:
    """A thread-safe cache of the most recently used pictures, up to `max_bytes`. A pickled copy is empty."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._pictures: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, index: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Picture `index`, decoded if it is not in the cache; read-only, because later readers share it."""
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
    """The pictures of a folder and its subfolders, as sorted paths relative to it; links to folders are followed.

    Links that lead nowhere are named on stderr.

    Raises:
        InputError: the folder is missing, cannot be read, or holds no picture.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise InputError(f"{folder}: is not a folder, expected a folder of pictures")

    def tell(link: Path) -> None:
        complain(f"left out: {link}: a link that leads nowhere")

    files = (path for path in files_below(folder, broken=tell) if path.suffix.lower() in READABLE_SUFFIXES)
    keys = sorted(path.relative_to(folder).as_posix() for path in files)
    if not keys:
        expected = ", ".join(sorted(READABLE_SUFFIXES))
        raise InputError(f"{folder}: holds no picture, expected files ending in {expected}")
    return keys


def read_rgb(path: Path) -> np.ndarray:
    """The picture in a file, uint8 RGB (H, W, 3), upright, without its alpha.

    Raises:
        InputError: it cannot be read.
    """
    return shallow(opaque(read(path)))


def find_set(path: str | Path) -> Path | None:
    """The folder of a set that TFDS prepared: `path`, or NAME/VERSION or NAME/CONFIG/VERSION below it; else None.

    Raises:
        InputError: there are several sets, or a `dataset_info.json` is damaged.
    """
    if not is_folder(path):
        return None
    files = [file for depth in ("", "*/", "*/*/", "*/*/*/") for file in sorted(Path(path).glob(depth + SET_INFO))]
    found = [file.parent for file in files if _is_set(read_json(file, object))]
    if len(found) > 1:
        raise InputError(f"{path}: holds several sets, expected one of {', '.join(map(str, found))}")
    return found[0] if found else None


def only_one_kind(folder: str | Path, one: str, other: str) -> InputError:
    """The refusal of a folder that holds two kinds of data, of which only one would be read."""
    return InputError(
        f"{folder}: holds {one} and {other}, expected only one kind; name the folder of the one to use, or move the "
        "other elsewhere"
    )


def _is_set(info: object) -> bool:
    """Whether TFDS wrote this `dataset_info.json`; it then has the set's name, its version and a list of splits."""
    kinds = {"name": str, "version": str, "splits": list}
    return isinstance(info, Mapping) and all(isinstance(info.get(name), kind) for name, kind in kinds.items())


class FolderSource:
    """The pictures of a folder and its subfolders, sorted by name; a record is uint8 RGB (H, W, 3), upright.

    Grey is repeated for the three channels, 16 bit are reduced to 8, CMYK is converted, and alpha is dropped (see
    `cassr_jax.imaging.io`). Pictures are decoded when they are accessed. Several threads may read and decode at the
    same time; a pickled copy starts with an empty cache, so each worker process fills its own.

    Args:
        path: the folder.
        cache_bytes: memory for the most recently used pictures, which stay decoded.

    Attributes:
        keys: `keys[i]` is the path of record i relative to the folder.

    Raises:
        InputError: the folder is missing or holds no picture; on access, if a picture cannot be read.
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

    def origin(self, index: int) -> str:
        return str(self.path / self.keys[index])

    def __repr__(self) -> str:
        return f"FolderSource({str(self.path)!r}, {len(self.keys)} pictures)"


def find_part(bounds: Sequence[int], index: int) -> tuple[int, int]:
    """The part that holds record `index`, and the record's number within this part.

    Part i holds the records `bounds[i]` to `bounds[i + 1]` - 1. A negative `index` counts from the end.

    Raises:
        IndexError: no part holds the record.
    """
    index = range(bounds[-1])[index]
    part = bisect_right(bounds, index) - 1
    return part, index - bounds[part]


class Joined(Sequence[T]):
    """Several sources as one; source i holds the records `bounds[i]` to `bounds[i + 1]` - 1."""

    def __init__(self, sources: Sequence[Source[T]]) -> None:
        self.sources = sources
        self.bounds = list(accumulate(map(len, sources), initial=0))

    def __len__(self) -> int:
        return self.bounds[-1]

    def __getitem__(self, index: int) -> T:  # pyright: ignore[reportIncompatibleMethodOverride]
        part, number = find_part(self.bounds, index)
        return self.sources[part][number]


def read_or_replace(source: Source[T], index: int) -> tuple[int, T, int]:
    """Read record `index`, or another one if it cannot be read.

    The replacement depends only on `index`, so a damaged record changes no other place of a stream, however many
    threads, processes or hosts make it. The records that cannot be read are named on stderr.

    Returns:
        The number of the record that was read, the record, and how many others could not be read.

    Raises:
        InputError: ATTEMPTS records in a row cannot be read, so the fault is not in single records.
    """
    size = len(source)
    # The next attempt is far away, because the neighbours of a damaged record lie in the same file. A stride that is
    # coprime to the size reaches every record.
    stride = next(step for step in count(max(1, round(0.618 * size))) if gcd(step, size) == 1)
    errors: list[InputError] = []
    for number in ((index + attempt * stride) % size for attempt in range(min(ATTEMPTS, size))):
        try:
            return number, source[number], len(errors)
        except InputError as error:
            complain(f"left out: {error}")
            errors.append(error)
    raise InputError(f"{len(errors)} records in a row cannot be read; the last one: {errors[-1]}") from errors[-1]
