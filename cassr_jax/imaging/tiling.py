"""Overlapping tiles of a plane too large for the network, and their merging with Gaussian weights.

This is MultiDiffusion (arXiv 2302.08113) with StableSR's Gaussian window (arXiv 2305.07015). Tiles are cut by a grid's
corners and summed into a canvas on the host, by `axis_weights`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cassr_jax.errors import InputError

GAUSSIAN_VARIANCE = 0.01  # the window's, in tiles squared


@dataclass(frozen=True)
class Grid:
    """The positions of a plane's tiles, in rows and columns that cover every pixel.

    Attributes:
        height, width: the plane's size.
        tile: the side of the square tiles. A smaller plane counts as extended to it at the bottom and right.
        overlap: the least overlap of neighbours; the last tile of a row or column may overlap more, to end at the
            border.
        tops, lefts: the first pixel row of each row of tiles, and the first pixel column of each column.
    """

    height: int
    width: int
    tile: int
    overlap: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.tops) * len(self.lefts)

    @cached_property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """(top, left) of each tile, row by row."""
        return tuple((top, left) for top in self.tops for left in self.lefts)

    def scaled(self, factor: int) -> "Grid":
        """The same grid on a plane `factor` times larger: from latents to pixels."""
        return Grid(
            height=self.height * factor,
            width=self.width * factor,
            tile=self.tile * factor,
            overlap=self.overlap * factor,
            tops=tuple(top * factor for top in self.tops),
            lefts=tuple(left * factor for left in self.lefts),
        )


def grid(height: int, width: int, tile: int, overlap: int) -> Grid:
    """A grid of tiles with side `tile` over height x width, neighbours overlapping by at least `overlap`.

    Raises:
        InputError: the plane or tile is empty, or the overlap is not in [0, tile).
    """
    if min(height, width, tile) < 1 or not 0 <= overlap < tile:
        raise InputError(
            f"tiles of {tile} with overlap {overlap} over {width}x{height}: expected sizes of at least 1 and "
            "an overlap from 0 to less than the tile"
        )
    return Grid(height, width, tile, overlap, _starts(height, tile, overlap), _starts(width, tile, overlap))


def gaussian_weights(tile: int) -> np.ndarray:
    """The positive window along one side, (tile,) float32; its outer product with itself weights a tile."""
    position = (np.arange(tile) - (tile - 1) / 2) / tile
    return np.exp(-(position**2) / (2 * GAUSSIAN_VARIANCE)).astype(np.float32)


def axis_weights(starts: tuple[int, ...], size: int, window: np.ndarray) -> np.ndarray:
    """Each tile's share along one axis, (N, t) float32; at every position of the plane the shares add up to 1.

    Tiles can thus be summed into a canvas one by one: `canvas[top:top + t, left:left + t] += rows[i] x columns[j] x
    tile`, cut at the border of a plane smaller than the tile.
    """
    positions = np.add.outer(np.asarray(starts), np.arange(len(window)))  # (N, t)
    total = np.bincount(positions.ravel(), np.tile(window.astype(np.float64), len(starts)), max(starts) + len(window))
    return np.where(positions < size, window / total[positions], 0).astype(np.float32)


def _starts(size: int, tile: int, overlap: int) -> tuple[int, ...]:
    if size <= tile:
        return (0,)
    return (*range(0, size - tile, tile - overlap), size - tile)
