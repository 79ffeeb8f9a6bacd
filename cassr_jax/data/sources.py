"""Where training pictures come from: random access to 8-bit RGB arrays by record number."""

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.imaging.io import fill_hidden, read

EXTENSIONS = frozenset(
    (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)

_DECODING = Lock()  # `read` sets switches of the whole process (Pillow's, those of warnings): one at a time


class PictureSource(Protocol):
    """Random access to pictures, uint8 RGB (H, W, 3)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


class FolderSource:
    """The pictures of a folder (and of its subfolders), sorted by name; a record is uint8 RGB (H, W, 3), upright.

    Grey is repeated, 16 bit brought to 8, CMYK converted, alpha dropped (see `cassr_jax.imaging.io`).
    `keys[i]` is record i's path relative to the folder. Pictures are decoded when asked for; the most recently used
    ones are kept decoded, up to `cache_bytes`. Safe to read from several threads; a pickled copy starts with an empty
    cache, so that worker processes each fill their own.

    Raises InputError when the folder is missing or holds no picture, and, on access, when a picture cannot be read.
    """

    def __init__(self, path: str | Path, *, cache_bytes: int = 1 << 30) -> None:
        self.path = Path(path)
        self.cache_bytes = cache_bytes
        if not self.path.is_dir():
            raise InputError(f"{self.path}: is not a folder; expected a folder of pictures")
        files = (p for p in self.path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
        self.keys = sorted(p.relative_to(self.path).as_posix() for p in files)
        if not self.keys:
            raise InputError(f"{self.path}: holds no picture; expected files ending in {', '.join(sorted(EXTENSIONS))}")
        self._clear()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self.keys))[index]
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        with _DECODING:
            image = fill_hidden(read(self.path / self.keys[index]))
        image.flags.writeable = False  # shared by every later reader
        with self._lock:
            if index not in self._cache:
                self._cache[index] = image
                self._cached_bytes += image.nbytes
            while self._cached_bytes > self.cache_bytes:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return image

    def __repr__(self) -> str:
        return f"FolderSource({str(self.path)!r}, {len(self.keys)} pictures)"

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "cache_bytes": self.cache_bytes, "keys": self.keys}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._clear()

    def _clear(self) -> None:
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._lock = Lock()
