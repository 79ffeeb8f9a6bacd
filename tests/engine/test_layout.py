"""Tiles as arrays: what shares a position, and where a view looks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.engine.layout import Layout, TileSize, layout, share_axis, sharing, tile_sizes, view, view_of_pixels
from cassr_jax.imaging import tiling
from tests.planes import cut

UNIT, FACTOR, OVERLAP = 8, 4, 0.25
SIZES = tile_sizes(64, UNIT, FACTOR, OVERLAP)


def laid_out(height: int, width: int) -> Layout:
    return layout(height, width, SIZES, UNIT, OVERLAP)


def test_a_picture_is_one_tile_of_the_smallest_size_that_holds_it():
    assert [size.pixels for size in SIZES] == [32, 64]
    for side, expected, count in ((1, 32, 1), (32, 32, 1), (33, 64, 1), (64, 64, 1), (65, 64, 2)):
        found = laid_out(5, side)
        assert (found.size.pixels, found.count) == (expected, count)


@pytest.mark.parametrize(
    ("tile", "unit", "expected"),
    [
        (512, 64, [256, 512]),
        (100, 8, [48, 96]),
        (8, 8, [8]),
        (300, 64, [256]),
        (1000, 64, [512, 960]),
        (1024, 64, [512, 1024]),
        (5000, 64, [640, 1280, 2496, 4992]),
        (8192, 64, [512, 1024, 2048, 4096, 8192]),
    ],
)
def test_tile_sizes_are_whole_units_and_never_a_few_positions(tile: int, unit: int, expected: list[int]):
    assert [size.pixels for size in tile_sizes(tile, unit, 8, OVERLAP)] == expected


@settings(deadline=None, max_examples=60)
@given(tile=st.integers(1024, 20_000), side=st.integers(1, 20_000))
def test_no_picture_is_extended_to_many_times_its_size(tile: int, side: int):
    """A large tile costs a small picture no more than a usual one does."""
    found = layout(side, side, tile_sizes(tile, 64, 8, OVERLAP), 64, OVERLAP)
    assert found.pixels.height <= max(2 * side + 64, 1024)


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_tiles_cover_the_picture_and_repeat_its_border(height: int, width: int):
    found = laid_out(height, width)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    whole = np.pad(picture, ((0, found.pixels.height - height), (0, found.pixels.width - width), (0, 0)), mode="edge")
    side = found.size.pixels
    covered = np.zeros(whole.shape[:2], bool)
    for tile, (top, left) in enumerate(found.pixels.corners):
        np.testing.assert_array_equal(found.cut(picture, tile), whole[top : top + side, left : left + side])
        covered[top : top + side, left : left + side] = True
    assert covered.all()


@settings(deadline=None, max_examples=60)
@given(size=st.integers(16, 200), overlap=st.floats(0, 0.9))
def test_the_shares_of_a_position_sum_to_one_and_are_those_of_the_window(size: int, overlap: float):
    side = 16
    grid = tiling.grid(side, size, side, int(side * overlap))
    covers = TileSize(side, 1, -(-side // (side - int(side * overlap))) + 1).covers
    axis = share_axis(grid.lefts, side, covers)
    np.testing.assert_allclose(axis.weight.sum(-1), 1, rtol=1e-6)
    window = tiling.axis_weights(grid.lefts, size, tiling.gaussian_weights(side))
    for tile, start in enumerate(grid.lefts):
        for position in range(side):
            found = np.zeros(len(grid.lefts))
            for k in range(covers):
                other, offset = axis.tile[tile, position, k], axis.offset[tile, position, k]
                assert grid.lefts[other] + offset == start + position
                found[other] += axis.weight[tile, position, k]
            expected = np.zeros(len(grid.lefts))
            for other, begin in enumerate(grid.lefts):
                if begin <= start + position < begin + side:
                    expected[other] = window[other, start + position - begin]
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_memory_grows_with_the_number_of_tiles_and_not_with_its_square():
    def peak(width: int) -> int:
        found = laid_out(4, width)
        assert found.grid.corners is found.grid.corners  # each tile looks there, and must not compute all positions
        tracemalloc.start()
        sharing([found])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(20_000) < 2.2 * peak(10_000)


def test_tiles_of_several_pictures_share_with_their_own_alone():
    layouts = [laid_out(100, 130), laid_out(64, 64), laid_out(64, 200)]
    found = sharing(layouts)
    begin = 0
    for each in layouts:
        own = slice(begin, begin + each.count)
        number = found.first[own, None, None] + (
            found.rows.tile[own].max((1, 2), keepdims=True) * found.across[own, None, None]
            + found.columns.tile[own].max((1, 2), keepdims=True)
        )
        assert np.all(found.first[own] == begin)
        assert number.max() < begin + each.count
        begin += each.count
    assert len(found.first) == begin


def test_a_view_sees_the_whole_picture_at_even_distances():
    each = laid_out(100, 300)
    plane = np.arange(each.grid.height * each.grid.width).reshape(each.grid.height, each.grid.width)
    tiles = cut(plane[..., None], each.grid)[..., 0]
    places = view(each, first=5)
    seen = tiles[places.tile - 5, places.row, places.column]
    for positions, size in (
        (seen[:, 0] // each.grid.width, each.grid.height),
        (seen[0] % each.grid.width, each.grid.width),
    ):
        steps = np.diff(positions)
        assert positions[0] <= size / each.size.side
        assert positions[-1] >= size - 1 - size / each.size.side
        assert steps.min() >= size // each.size.side
        assert steps.max() <= -(-size // each.size.side)


def test_a_view_of_the_pixels_looks_where_that_of_the_latents_does():
    each = laid_out(90, 150)
    y, x = np.indices((90, 150))
    seen = view_of_pixels(each, np.stack([y, x, y], axis=-1))
    assert seen.shape == (64, 64, 3)
    assert seen[0, 0, 0] <= 1
    assert (seen[-1, -1, 0], seen[-1, -1, 1]) == (89, 149)  # beyond the picture, its border
