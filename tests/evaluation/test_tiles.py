"""Which tiles are evaluated: sharp, spread over the pictures, the same ones every time."""

from collections import Counter

import cv2
import numpy as np
import pytest

from cassr_jax.data.presets import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.evaluation.tiles import (
    Corner,
    choose_corners,
    degraded_crops,
    degraded_tiles,
    sharp_corners,
    sharpest_corner,
)


def picture(height: int, width: int, sharp: list[tuple[int, int]], size: int = 32) -> np.ndarray:
    """Smooth but for noise in the tiles whose row and column are listed."""
    result = np.broadcast_to(np.linspace(60, 180, width)[None, :, None], (height, width, 3)).copy()
    for row, column in sharp:
        noise = np.random.default_rng([row, column]).normal(0, 25, (size, size, 3))
        result[row * size : (row + 1) * size, column * size : (column + 1) * size] += noise
    return result.round().clip(0, 255).astype(np.uint8)


def test_exactly_the_sharp_tiles_of_the_whole_grid():
    image = picture(100, 150, [(0, 1), (2, 3), (1, 0)])
    corners = {(c.top, c.left) for c in sharp_corners(image, size=32)}
    assert {(0, 32), (64, 96), (32, 0)} == corners


def test_a_picture_smaller_than_a_tile_has_none():
    assert sharp_corners(picture(31, 90, [])[:, :, :], size=32) == []


def test_evenly_over_pictures_and_a_smaller_choice_begins_a_larger_one():
    everywhere = [(row, column) for row in range(3) for column in range(4)]
    source = [picture(100, 130, everywhere), picture(100, 130, everywhere[:2]), picture(100, 130, [])]
    names = ["a.png", "b.png", "c.png"]
    chosen = choose_corners(source, names, 8, 32)
    assert Counter(corner.record for corner in chosen) == {0: 6, 1: 2}
    assert len(set(chosen)) == 8
    assert choose_corners(source, names, 3, 32) == chosen[:3]
    assert [corner.record for corner in chosen[:4]] == [0, 1, 0, 1]
    with pytest.raises(InputError, match="14 sharp tiles of 32 px, expected at least 15"):
        choose_corners(source, names, 15, 32)


def test_tiles_are_degraded_by_their_number(tmp_path):
    image = picture(64, 96, [(0, 0), (1, 2)])
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    pairs = degraded_tiles(tmp_path, 2, PRESETS["light"], 32)
    again = degraded_tiles(tmp_path, 2, PRESETS["light"], 32)
    assert {pair.name for pair in pairs} == {"a.png@0,0", "a.png@32,64"}
    for pair, same in zip(pairs, again, strict=True):
        corner = Corner(0, *map(int, pair.name.split("@")[1].split(",")))
        np.testing.assert_array_equal(pair.hr, image[corner.top : corner.top + 32, corner.left : corner.left + 32])
        assert pair.lr.shape == (8, 8, 3)
        np.testing.assert_array_equal(pair.lr, same.lr)


def test_the_sharpest_crop_of_a_photograph(tmp_path):
    image = picture(800, 1050, [(0, 0), (1, 2), (2, 2), (1, 3)], size=256)
    assert sharpest_corner(image, 7) == Corner(7, 256, 512)
    assert sharpest_corner(picture(800, 1050, [(0, 0), (2, 3)], size=256)) is None
    assert sharpest_corner(image[:500]) is None
    for name, content in (("a.png", image[:500]), ("b.png", image)):
        cv2.imwrite(str(tmp_path / name), content[..., ::-1])
    (pair,) = degraded_crops(tmp_path, 5, PRESETS["light"])
    assert (pair.name, pair.lr.shape) == ("b.png@256,512", (128, 128, 3))
    np.testing.assert_array_equal(pair.hr, image[256:768, 512:1024])
    (tmp_path / "b.png").unlink()
    with pytest.raises(InputError, match="two sharp tiles"):
        degraded_crops(tmp_path, 5, PRESETS["light"])
