"""Sharp tiles of photographs, and their degraded versions: what test sets are made of."""

import zlib
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from cassr_jax.data.crops import SHARP, TILE, laplacian
from cassr_jax.data.degradation import Preset, degrade
from cassr_jax.data.sources import FolderSource, PictureSource
from cassr_jax.errors import InputError


@dataclass(frozen=True)
class Pair:
    """A picture to restore, uint8 (h, w, 3), and the truth, uint8 (H, W, 3)."""

    name: str
    lr: np.ndarray
    hr: np.ndarray


@dataclass(frozen=True)
class Corner:
    """Where a tile lies: the record of its picture, and its top left corner in px."""

    record: int
    top: int
    left: int


def sharp_corners(picture: np.ndarray, record: int = 0, size: int = TILE) -> list[Corner]:
    """The sharp tiles of the non-overlapping `size` px grid from the top left corner of uint8 RGB (H, W, 3).

    Sharp: the variance of the Laplacian of the tile's 8-bit grey is at least `SHARP`.
    """
    height, width = picture.shape[:2]
    corners = (
        Corner(record, top, left)
        for top in range(0, height - size + 1, size)
        for left in range(0, width - size + 1, size)
    )
    return [c for c in corners if laplacian(_cut(picture, c, size)).var() >= SHARP]


def choose_corners(source: PictureSource, names: list[str], count: int, size: int = TILE) -> list[Corner]:
    """`count` sharp tiles spread evenly over the pictures: one of each, then a second of each that has two, and so on.

    The order within a picture is random but depends on its name alone, so a smaller choice is the beginning of a
    larger one.

    Raises:
        InputError: there are fewer than `count`.
    """
    piles = []
    for record, name in enumerate(names):
        corners = sharp_corners(source[record], record, size)
        order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(corners))
        piles.append([corners[i] for i in order])
    chosen = [corner for layer in zip_longest(*piles) for corner in layer if corner is not None]
    if len(chosen) < count:
        raise InputError(f"the pictures have {len(chosen)} sharp tiles of {size} px; {count} were asked for")
    return chosen[:count]


def degraded_tiles(folder: Path, count: int, preset: Preset, size: int = TILE) -> list[Pair]:
    """`choose_corners` of the pictures of a folder, tile i degraded with seed i.

    Raises:
        InputError: the folder holds no picture or too few sharp tiles, or a picture cannot be read.
    """
    source = FolderSource(folder)
    return _degraded(source, choose_corners(source, source.keys, count, size), preset, size)


def sharpest_corner(picture: np.ndarray, record: int = 0, size: int = 2 * TILE) -> Corner | None:
    """The `size` px crop on the grid of TILE px that holds most sharp tiles; None where it would hold fewer than two.

    `size` is a multiple of TILE.
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
    """`sharpest_corner` of at most `count` pictures of a folder, by name; crop i is degraded with seed i.

    Raises:
        InputError: the folder holds no picture, no picture has such a crop, or a picture cannot be read.
    """
    source = FolderSource(folder)
    corners = (sharpest_corner(source[record], record, size) for record in range(len(source)))
    chosen = list(islice((corner for corner in corners if corner is not None), count))
    if not chosen:
        raise InputError(f"{folder}: no picture has a crop of {size} px with two sharp tiles of {TILE} px")
    return _degraded(source, chosen, preset, size)


def _degraded(source: FolderSource, corners: list[Corner], preset: Preset, size: int) -> list[Pair]:
    pairs = []
    for i, corner in enumerate(corners):
        tile = np.ascontiguousarray(_cut(source[corner.record], corner, size))
        pairs.append(Pair(f"{source.keys[corner.record]}@{corner.top},{corner.left}", *degrade(tile, i, preset)))
    return pairs


def _cut(picture: np.ndarray, corner: Corner, size: int) -> np.ndarray:
    return picture[corner.top : corner.top + size, corner.left : corner.left + size]
