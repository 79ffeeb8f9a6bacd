"""Overlapping tiles of a plane too large for the network, and their merging with Gaussian weights.

This is MultiDiffusion (arXiv 2302.08113) with StableSR's Gaussian window (arXiv 2305.07015). The cascade cuts its tiles
by a grid's corners and sums them into a canvas on the host, by `axis_weights`. `gather` and `merge` do the same to all
tiles of a plane at once; the evaluation's autoencoder calls them inside a compiled function, where the grid is static.
They take JAX or NumPy arrays and return the kind they were given.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cassr_jax.errors import InputError

Array = Any  # np.ndarray or jax.Array

GAUSSIAN_VARIANCE = 0.01  # of the window, in tiles squared


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

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """(top, left) of each tile, in the order in which `gather` stacks them."""
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


def gather(x: Array, tiles: Grid) -> Array:
    """Cuts (B, H, W, C) into tiles (B * N, t, t, C), picture by picture; a small plane repeats its border."""
    rows = np.minimum(np.add.outer(tiles.tops, np.arange(tiles.tile)), tiles.height - 1)  # (Ny, t)
    columns = np.minimum(np.add.outer(tiles.lefts, np.arange(tiles.tile)), tiles.width - 1)  # (Nx, t)
    cut = x[:, rows][:, :, :, columns]  # (B, Ny, t, Nx, t, C)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, tiles.tile, tiles.tile, x.shape[-1])


def merge(x: Array, tiles: Grid) -> Array:
    """Merges tiles (B * N, t, t, C) into planes (B, H, W, C) of the same dtype by their mean, Gaussian-weighted.

    The grid is a product of rows and columns, so each axis is normalised by itself. Each pixel gathers the few tiles
    that cover it; without a scatter, the order of the sum is the same on every device. The mean is taken in float32.

    Args:
        x: tiles in the order of `gather`.
        tiles: the grid.
    """
    window = gaussian_weights(tiles.tile)
    t = tiles.tile
    grid = x.reshape(-1, len(tiles.tops), len(tiles.lefts), t, t, x.shape[-1]).astype(np.float32)
    lines = _overlap_mean(grid.transpose(0, 1, 3, 2, 4, 5), tiles.tops, tiles.height, window)  # (B, H, Nx, t, C)
    merged = _overlap_mean(lines.transpose(0, 2, 3, 1, 4), tiles.lefts, tiles.width, window)  # (B, W, H, C)
    return merged.transpose(0, 2, 1, 3).astype(x.dtype)


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


def _overlap_mean(x: Array, starts: tuple[int, ...], size: int, window: np.ndarray) -> Array:
    """The weighted mean of the tiles that cover each position, (B, N, t, ...) -> (B, size, ...)."""
    share = axis_weights(starts, size, window)
    tile = len(window)
    covering = [[n for n, start in enumerate(starts) if start <= p < start + tile] for p in range(size)]
    merged = x.__array_namespace__().zeros((x.shape[0], size, *x.shape[3:]), np.float32)
    for k in range(max(map(len, covering))):
        # The k-th tile over each position; positions with fewer tiles repeat their first with weight 0.
        index = np.array([tiles[k] if k < len(tiles) else tiles[0] for tiles in covering])
        offset = np.arange(size) - np.take(starts, index)
        weight = np.where([k < len(tiles) for tiles in covering], share[index, offset], 0).astype(np.float32)
        merged += weight.reshape(-1, *[1] * (x.ndim - 3)) * x[:, index, offset]
    return merged
