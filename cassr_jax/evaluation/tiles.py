"""Sharp tiles of photographs and their degraded versions, from which test sets are made."""

import zlib
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from cassr_jax.data.crops import SHARP, TILE, laplacian
from cassr_jax.data.degradation import degrade
from cassr_jax.data.presets import Preset
from cassr_jax.data.sources import FolderSource, PictureSource
from cassr_jax.errors import InputError


@dataclass(frozen=True)
class Pair:
    """A picture to restore, uint8 (h, w, 3), and its truth, uint8 (H, W, 3)."""

    name: str
    lr: np.ndarray
    hr: np.ndarray


@dataclass(frozen=True)
class Corner:
    """The place of a tile: the number of its picture, and its top left corner in px."""

    record: int
    top: int
    left: int


def sharp_corners(picture: np.ndarray, record: int = 0, size: int = TILE) -> list[Corner]:
    """The corners of the sharp tiles of a picture, uint8 RGB (H, W, 3).

    The tiles are those of the grid of `size` px, without overlap, that starts at the top left corner. A tile is sharp
    if the variance of the Laplacian of its 8-bit grey is at least `SHARP`.
    """
    height, width = picture.shape[:2]
    corners = (
        Corner(record, top, left)
        for top in range(0, height - size + 1, size)
        for left in range(0, width - size + 1, size)
    )
    return [c for c in corners if laplacian(_cut(picture, c, size)).var() >= SHARP]


def choose_corners(source: PictureSource, names: list[str], count: int, size: int = TILE) -> list[Corner]:
    """Choose `count` sharp tiles, spread evenly over the pictures.

    One tile comes from each picture, then a second one from each picture that has two, and so on. The order within a
    picture is random but depends only on the picture's name, so a smaller choice is the beginning of a larger one.

    Raises:
        InputError: there are fewer than `count` sharp tiles.
    """
    piles = []
    for record, name in enumerate(names):
        corners = sharp_corners(source[record], record, size)
        order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(corners))
        piles.append([corners[i] for i in order])
    chosen = [corner for layer in zip_longest(*piles) for corner in layer if corner is not None]
    if len(chosen) < count:
        raise InputError(f"the pictures have {len(chosen)} sharp tiles of {size} px, expected at least {count}")
    return chosen[:count]


def degraded_tiles(folder: Path, count: int, preset: Preset, size: int = TILE) -> list[Pair]:
    """Cut the tiles that `choose_corners` chooses in a folder, and degrade tile i with seed i.

    Raises:
        InputError: the folder holds no picture or too few sharp tiles, or a picture cannot be read.
    """
    source = FolderSource(folder)
    return _degraded(source, choose_corners(source, source.keys, count, size), preset, size)


def sharpest_corner(picture: np.ndarray, record: int = 0, size: int = 2 * TILE) -> Corner | None:
    """The corner of the crop that holds the most sharp tiles; None if no crop holds at least two.

    Crops have `size` px, a multiple of TILE, and lie on the grid of TILE px.
    """
    sharp = {(corner.top, corner.left) for corner in sharp_corners(picture)}
    height, width = picture.shape[:2]
    steps = range(0, size, TILE)
    best, found = 1, None
    for top in range(0, height - size + 1, TILE):
        for left in range(0, width - size + 1, TILE):
            count = sum((top + i, left + j) in sharp for i in steps for j in steps)
            if count > best:
                best, found = count, Corner(record, top, left)
    return found


def degraded_crops(folder: Path, count: int, preset: Preset, size: int = 2 * TILE) -> list[Pair]:
    """Cut the sharpest crop of each of the first `count` pictures that have one, and degrade crop i with seed i.

    The pictures are taken in the order of their names; see `sharpest_corner`.

    Raises:
        InputError: the folder holds no picture, no picture has such a crop, or a picture cannot be read.
    """
    source = FolderSource(folder)
    corners = (sharpest_corner(source[record], record, size) for record in range(len(source)))
    chosen = list(islice((corner for corner in corners if corner is not None), count))
    if not chosen:
        raise InputError(
            f"{folder}: no picture has a crop of {size} px with two sharp tiles of {TILE} px, expected one"
        )
    return _degraded(source, chosen, preset, size)


def _degraded(source: FolderSource, corners: list[Corner], preset: Preset, size: int) -> list[Pair]:
    pairs = []
    for i, corner in enumerate(corners):
        tile = np.ascontiguousarray(_cut(source[corner.record], corner, size))
        pairs.append(Pair(f"{source.keys[corner.record]}@{corner.top},{corner.left}", *degrade(tile, i, preset)))
    return pairs


def _cut(picture: np.ndarray, corner: Corner, size: int) -> np.ndarray:
    return picture[corner.top : corner.top + size, corner.left : corner.left + size]
