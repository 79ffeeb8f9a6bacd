"""Cutting a plane into tiles and merging it from them, all at once."""

import numpy as np

from cassr_jax.imaging.tiling import Grid, axis_weights, gaussian_weights


def cut(plane: np.ndarray, tiles: Grid) -> np.ndarray:
    """The tiles (N, t, t, C) of a plane (H, W, C), whose border is repeated where it is smaller than a tile."""
    beyond = [(0, max(tiles.tile - size, 0)) for size in plane.shape[:2]]
    plane = np.pad(plane, [*beyond, (0, 0)], mode="edge")
    return np.stack([plane[top : top + tiles.tile, left : left + tiles.tile] for top, left in tiles.corners])


def merged(values: np.ndarray, tiles: Grid) -> np.ndarray:
    """The plane (H, W, C) whose tiles (N, t, t, C) are summed, each by its share."""
    window = gaussian_weights(tiles.tile)
    rows = axis_weights(tiles.tops, tiles.height, window)
    columns = axis_weights(tiles.lefts, tiles.width, window)
    height, width = (max(size, tiles.tile) for size in (tiles.height, tiles.width))
    canvas = np.zeros((height, width, values.shape[-1]), np.float32)
    for number, (top, left) in enumerate(tiles.corners):
        row, column = divmod(number, len(tiles.lefts))
        share = np.outer(rows[row], columns[column])[..., None]
        canvas[top : top + tiles.tile, left : left + tiles.tile] += share * values[number]
    return canvas[: tiles.height, : tiles.width]
