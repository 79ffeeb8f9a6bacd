"""Which part of a picture to train on: mostly sharp windows, and a few from anywhere.

Large parts of many photographs are out of focus. A model that trains on such areas learns blur; a model that never sees
them invents texture where there is none. So most crops, but not all, are taken where the picture is sharp.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np

from cassr_jax.data.index import Kind, indexed
from cassr_jax.data.sources import FolderSource, NamedSource, PictureSource
from cassr_jax.errors import InputError
from cassr_jax.files import replaced
from cassr_jax.imaging.memory import check_bytes
from cassr_jax.printing import complain, progress_bar

SHARP = 100.0  # a window is sharp if the variance of the Laplacian of its 8-bit grey is at least this
_BYTES = 28  # for a pixel that is searched for sharp windows: colours, two greys, the Laplacian and its running sums
TILE = 256  # side in px of the tiles by which it is measured how much of a picture is sharp


def laplacian(image: np.ndarray) -> np.ndarray:
    """The 3x3 Laplacian of the 8-bit grey of a uint8 RGB picture; float32 (H, W)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.Laplacian(grey.astype(np.float32), cv2.CV_32F)


def window_variances(values: np.ndarray, size: int, stride: int) -> np.ndarray:
    """The variances of the `size` x `size` windows of `values` (H, W) whose corners are multiples of `stride`.

    Returns:
        float64 (rows, columns) with rows = (H - size) // stride + 1, and no rows if the picture is too small.
    """
    rows, columns = ((side - size) // stride + 1 for side in values.shape)
    if rows <= 0 or columns <= 0:
        return np.zeros((max(rows, 0), max(columns, 0)))
    # A sum over a window is a difference of running sums, so windows that overlap cost nothing extra.
    total, squares = cv2.integral2(values, sdepth=cv2.CV_64F, sqdepth=cv2.CV_64F)
    top, left = np.arange(rows) * stride, np.arange(columns) * stride

    def sums(table: np.ndarray) -> np.ndarray:
        bottom_rows, top_rows = table[top + size], table[top]
        return (bottom_rows - top_rows)[:, left + size] - (bottom_rows - top_rows)[:, left]

    mean = sums(total) / size**2
    return np.maximum(sums(squares) / size**2 - mean**2, 0.0)


def at_least(image: np.ndarray, size: int) -> np.ndarray:
    """The image, enlarged bicubically until its shorter side is `size` if that side is shorter."""
    height, width = _enlarged_size(image, size)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def _enlarged_size(image: np.ndarray, size: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter >= size:
        return height, width
    return max(size, round(height * size / shorter)), max(size, round(width * size / shorter))


class Enlarged:
    """The pictures of a source, enlarged until the shorter side is `size` if it is shorter.

    Raises:
        InputError: on access, if the source cannot read the picture, or the memory does not hold it when enlarged: a
            picture a thousand times as wide as high becomes a thousand squares of `size`.
    """

    def __init__(self, source: NamedSource, size: int) -> None:
        self._source, self._size = source, size

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        image = self._source[index]
        height, width = _enlarged_size(image, self._size)
        if (height, width) != image.shape[:2]:
            what = f"{self._source.origin(index)}: the {width}x{height} px to which it is enlarged for a crop"
            check_bytes(_BYTES * height * width, what, "choose a smaller data.crop_size or leave it out")
        return at_least(image, self._size)


@dataclass(frozen=True)
class Windows:
    """The sharp windows of one picture, for one crop size."""

    corners: np.ndarray  # (N, 2) int32: top and left of each sharp window
    stride: int  # distance between neighbouring corners, in px
    tiles: int  # number of sharp tiles in the grid of TILE px, without overlap


def find_windows(image: np.ndarray, size: int) -> Windows:
    """Find the sharp `size` px windows of a uint8 RGB picture, a quarter of a window (at least 8 px) apart.

    A picture with a side below `size` has none; see `Enlarged`.
    """
    values = laplacian(image)
    stride = max(8, size // 4)
    corners = np.argwhere(window_variances(values, size, stride) >= SHARP).astype(np.int32) * stride
    tiles = int((window_variances(values, TILE, TILE) >= SHARP).sum())
    return Windows(corners, stride, tiles)


def find_all_windows(
    images: PictureSource, size: int, *, threads: int = 2, file: Path | None = None
) -> list[Windows | None]:
    """Find the windows of every picture of a source; None for a picture that cannot be read, which is named on stderr.

    `threads` pictures are decoded at a time. If `file` holds the windows that were found before, no picture is decoded.
    Otherwise the windows are written to it, if every picture could be read and the file can be written.
    """
    if file is not None and (kept := _read_windows(file)) is not None and len(kept) == len(images):
        return [*kept]

    found = _search(images, range(len(images)), size, threads)
    whole = [windows for windows in found if windows is not None]
    if file is not None and len(whole) == len(found):
        with suppress(InputError), replaced(file) as stream:  # a shared set may be read-only
            np.savez(stream, **_packed(whole))
    return found


def find_folders_windows(
    images: PictureSource, folder: FolderSource, size: int, *, threads: int
) -> list[Windows | None]:
    """As `find_all_windows`, for the pictures of a folder, of which only new and changed ones are decoded.

    Args:
        images: the pictures of `folder`, as they are to be searched.
        folder: where they come from.
        size: side of a window in px.
        threads: pictures that are decoded at a time.
    """
    numbers = {key: number for number, key in enumerate(folder.keys)}
    kind = Kind(f"windows_{size}_{SHARP:g}_{TILE}", _packed, _unpacked)
    return indexed(
        folder.path, folder.keys, kind, lambda keys: _search(images, [numbers[key] for key in keys], size, threads)
    )


def _search(images: PictureSource, numbers: Sequence[int], size: int, threads: int) -> list[Windows | None]:
    """The windows of some pictures; None for one that cannot be read, which is named on stderr."""

    def find(number: int) -> Windows | None:
        try:
            return find_windows(images[number], size)
        except InputError as error:
            complain(f"left out: {error}")
            return None

    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(find, numbers)
        return list(progress_bar(found, total=len(numbers), desc="searching pictures", unit="picture", leave=False))


def _packed(windows: Sequence[Windows]) -> dict[str, Any]:
    return {
        "corners": np.concatenate([w.corners for w in windows]),
        "counts": np.array([len(w.corners) for w in windows]),
        "tiles": np.array([w.tiles for w in windows]),
        "stride": np.array(windows[0].stride),
    }


def _unpacked(found: Mapping[str, np.ndarray]) -> list[Windows]:
    parts = np.split(found["corners"], np.cumsum(found["counts"])[:-1])
    stride = int(found["stride"])
    return [Windows(part, stride, int(n)) for part, n in zip(parts, found["tiles"], strict=True)]


def _read_windows(file: Path) -> list[Windows] | None:
    """The windows in a file; None if there is no such file, or if it is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream) as found:
            return _unpacked(found)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def random_crop(
    rng: np.random.Generator,
    image: np.ndarray,
    size: int,
    windows: Windows,
    *,
    sharp: float = 0.9,
    min_scale: float = 1.0,
) -> np.ndarray:
    """Draw a `size` px crop of a uint8 RGB picture, mirrored with probability 1/2; uint8 (size, size, 3), contiguous.

    The picture's sides are at least `size`; `Enlarged` sees to that.
    With probability `sharp` the crop is one of the picture's sharp windows, moved by less than the windows' stride so
    that every position can be drawn. Otherwise, or if the picture has no sharp window, it comes from anywhere. With a
    `min_scale` below 1, a larger part of the picture around that place is shrunk by a factor between `min_scale` and 1.
    """
    limit = np.array(image.shape[:2]) - size
    choose_sharp = rng.random() < sharp
    if choose_sharp and len(windows.corners):
        half = windows.stride // 2
        corner = windows.corners[rng.integers(len(windows.corners))] + rng.integers(-half, half, size=2, endpoint=True)
        corner = np.clip(corner, 0, limit)
    else:
        corner = rng.integers(0, limit, endpoint=True)
    side = size
    if min_scale < 1:
        side = min(round(size / rng.uniform(min_scale, 1)), *image.shape[:2])
        corner = np.clip(corner - (side - size) // 2, 0, np.array(image.shape[:2]) - side)
    top, left = (int(c) for c in corner)
    crop = image[top : top + side, left : left + side]
    if side > size:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop)
