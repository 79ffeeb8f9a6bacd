"""The positions of a picture's tiles, and the tiles that share a position, in arrays whose shapes fit every picture.

The networks are compiled for a few sizes of tile. A picture that fits into one of them becomes a single tile, extended
at the bottom and right by its border; a larger one is covered by overlapping tiles of the largest size. NumPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Shaped

from cassr_jax.imaging import tiling

Plane = Shaped[np.ndarray, "height width channels"]
Tile = Shaped[np.ndarray, "side side channels"]

ENOUGH = 512  # px: the halves of a tile are halved again only down to this
SMALLEST = 4  # least side of a tile in the U-Net's coarsest positions: with a single one, colours drift


@dataclass(frozen=True)
class TileSize:
    """A size of tile for which the networks are compiled.

    Attributes:
        side: the tile's side in latents.
        factor: pixels per latent along a side.
        covers: how many tiles along one axis may share a position; 1 if a picture is a single tile.
    """

    side: int
    factor: int
    covers: int

    @property
    def pixels(self) -> int:
        return self.side * self.factor


def tile_sizes(tile: int, unit: int, factor: int, overlap: float) -> tuple[TileSize, ...]:
    """The sizes of tile for a configuration, smallest first; pictures of several tiles use the last one.

    Args:
        tile: the largest side in pixels, at least `unit`.
        unit: pixels of one of the U-Net's coarsest positions; sides are multiples of it.
        factor: pixels per latent.
        overlap: least share of a side that neighbours have in common.
    """
    largest = tile - tile % unit
    *smaller, side = (each // factor for each in halved(largest, unit, min(SMALLEST * unit, largest), ENOUGH))
    covers = -(-side // (side - int(side * overlap))) + 1  # the last tile of a row ends at the border and overlaps more
    return (*(TileSize(each, factor, 1) for each in smaller), TileSize(side, factor, covers))


def halved(largest: int, unit: int, smallest: int, enough: int) -> list[int]:
    """Sides of tiles, smallest first: the largest, its half, and further halves that are at least `enough`.

    A small picture is thus not extended to a tile many times its size. Halves are multiples of `unit`, rounded up, and
    at least `smallest`.
    """
    sides = [largest]
    while sides[0] > smallest and (len(sides) == 1 or sides[0] >= 2 * enough):
        sides.insert(0, max(-(-sides[0] // 2 // unit) * unit, smallest))
    return sides


@dataclass(frozen=True)
class Layout:
    """The tiles of one picture.

    Attributes:
        height, width: the picture's size in pixels.
        size: the size of its tiles.
        grid: the tiles' positions in a plane of latents that holds the picture and is at least one tile each way.
    """

    height: int
    width: int
    size: TileSize
    grid: tiling.Grid

    @property
    def count(self) -> int:
        return self.grid.count

    @cached_property
    def pixels(self) -> tiling.Grid:
        return self.grid.scaled(self.size.factor)

    def cut(self, picture: Plane, tile: int) -> Tile:
        """One tile of the picture; the border is repeated where the tile reaches beyond it."""
        return _cut(picture, *self.pixels.corners[tile], self.size.pixels)

    def cut_source(self, source: Plane, tile: int) -> Tile:
        """The same tile of the picture before a network enlarges it: (height / factor, width / factor, C)."""
        return _cut(source, *self.grid.corners[tile], self.size.side)


def _cut(picture: Plane, top: int, left: int, side: int) -> Tile:
    return extended(picture[top : top + side, left : left + side], side, side)


def extended(picture: Plane, to_height: int, to_width: int) -> Shaped[np.ndarray, "{to_height} {to_width} channels"]:
    """The picture, extended at the bottom and right to to_height x to_width by its border."""
    down, right = to_height - picture.shape[0], to_width - picture.shape[1]
    return np.pad(picture, ((0, down), (0, right), (0, 0)), mode="edge")


def layout(height: int, width: int, sizes: tuple[TileSize, ...], unit: int, overlap: float) -> Layout:
    """The layout of a height x width picture in one tile of the smallest size that holds it, or in several tiles."""
    longer = max(height, width)
    size = next((size for size in sizes if longer <= size.pixels), sizes[-1])
    rows, columns = (max(-(-side // unit) * unit, size.pixels) // size.factor for side in (height, width))
    shared = int(size.side * overlap) if size.covers > 1 else 0
    return Layout(height, width, size, tiling.grid(rows, columns, size.side, shared))


class Axis(NamedTuple):
    """The tiles that share each position along one axis, and their weights.

    Attributes:
        tile: the number of a tile along the axis.
        offset: the position within that tile.
        weight: that tile's share; the shares of a position add up to 1.
    """

    tile: Int32[np.ndarray, "tiles side covers"]
    offset: Int32[np.ndarray, "tiles side covers"]
    weight: Float32[np.ndarray, "tiles side covers"]


def share_axis(starts: tuple[int, ...], side: int, covers: int) -> Axis:
    """The tiles that share the positions of every tile along an axis, in order.

    A position that fewer than `covers` tiles share repeats the first with weight 0. A number that is not finite thus
    stays in its own picture.
    """
    first = np.asarray(starts)
    position = np.add.outer(first, np.arange(side))  # (tiles, side), in the plane
    tile = np.searchsorted(first, position - side, side="right")[..., None] + np.arange(covers)  # the first that covers
    known = (tile < len(first)) & (first[np.minimum(tile, len(first) - 1)] <= position[..., None])
    tile = np.where(known, tile, tile[..., :1])
    at = position[..., None] - first[tile]
    weight = np.where(known, tiling.gaussian_weights(side).astype(np.float64)[at], 0)
    weight /= weight.sum(-1, keepdims=True)
    return Axis(tile.astype(np.int32), at.astype(np.int32), weight.astype(np.float32))


class Sharing(NamedTuple):
    """For each of a wave's N tiles of one size, the places of the values whose mean gives its latents.

    Attributes:
        rows, columns: the tiles, counted within the picture.
        first: the number, in the wave, of the first tile of the same picture.
        across: the number of tiles in a row of the picture.
    """

    rows: Axis
    columns: Axis
    first: Int32[np.ndarray, " tiles"]
    across: Int32[np.ndarray, " tiles"]


def sharing(layouts: Sequence[Layout]) -> Sharing:
    """The sharing of the tiles of several pictures, picture by picture; all tiles have the same size."""
    side, covers = layouts[0].size.side, layouts[0].size.covers
    rows, columns, first, across = [], [], [], []
    begin = 0
    for each in layouts:
        down, right = (share_axis(starts, side, covers) for starts in (each.grid.tops, each.grid.lefts))
        row, column = np.divmod(np.arange(each.count), len(each.grid.lefts))
        rows.append(Axis(*(values[row] for values in down)))
        columns.append(Axis(*(values[column] for values in right)))
        first.append(np.full(each.count, begin, np.int32))
        across.append(np.full(each.count, len(each.grid.lefts), np.int32))
        begin += each.count
    rows, columns = (Axis(*map(np.concatenate, zip(*parts, strict=True))) for parts in (rows, columns))
    return Sharing(rows, columns, np.concatenate(first), np.concatenate(across))


def origins(layouts: Sequence[Layout]) -> tuple[Int32[np.ndarray, " tiles"], Int32[np.ndarray, " tiles"]]:
    """The row and the column, in its picture's latents, where each tile of several pictures begins."""
    corners = np.array([corner for each in layouts for corner in each.grid.corners], np.int32)
    return corners[:, 0], corners[:, 1]


class Places(NamedTuple):
    """Positions in the tiles of a wave: tile number, row and column."""

    tile: Int32[np.ndarray, "*tiles side side"]
    row: Int32[np.ndarray, "*tiles side side"]
    column: Int32[np.ndarray, "*tiles side side"]


def whole_tile(number: int, side: int) -> Places:
    """The positions of one tile."""
    row, column = np.indices((side, side), dtype=np.int32)
    return Places(np.full((side, side), number, np.int32), row, column)


def view(each: Layout, first: int) -> Places:
    """Evenly spaced positions that show a whole picture in one tile; `first` is the number of its first tile.

    The values are picked, not averaged, so noise keeps its strength. The decoder's normalisations use this view of a
    picture of several tiles.
    """
    side = each.size.side

    def picked(size: int, starts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        position = (2 * np.arange(side) + 1) * size // (2 * side)
        tile = np.searchsorted(starts, position, side="right") - 1
        return tile, position - np.asarray(starts)[tile]

    (down, row), (right, column) = (
        picked(size, starts)
        for size, starts in ((each.grid.height, each.grid.tops), (each.grid.width, each.grid.lefts))
    )
    tile = first + np.add.outer(down * len(each.grid.lefts), right)
    return Places(*(np.broadcast_to(x, (side, side)).astype(np.int32) for x in (tile, row[:, None], column)))


def view_of_pixels(each: Layout, picture: Plane) -> Tile:
    """The same view in the picture's pixels."""
    side = each.size.pixels
    rows, columns = (
        np.minimum((2 * np.arange(side) + 1) * size // (2 * side), own - 1)
        for size, own in ((each.pixels.height, each.height), (each.pixels.width, each.width))
    )
    return picture[rows[:, None], columns]
