import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.errors import InputError
from cassr_jax.imaging.tiling import gaussian_weights, grid
from tests.planes import cut, merged

sizes = st.integers(1, 40)
tilings = st.integers(1, 17).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))


@settings(deadline=None, max_examples=200)
@given(height=sizes, width=sizes, tiling=tilings)
def test_plan_covers_the_plane_and_ends_at_its_border(height, width, tiling):
    tile, overlap = tiling
    tiles = grid(height, width, tile, overlap)
    assert tiles.count == len(tiles.corners)
    for starts, size in ((tiles.tops, height), (tiles.lefts, width)):
        assert starts[0] == 0
        assert starts[-1] == max(size - tile, 0)
        steps = np.diff(starts)
        assert np.all(steps > 0)
        assert np.all(steps <= tile - overlap)
        assert np.all(steps[:-1] == tile - overlap)
    assert hash(tiles) == hash(grid(height, width, tile, overlap))


@settings(deadline=None, max_examples=100)
@given(height=sizes, width=sizes, tiling=tilings, seed=st.integers(0, 99))
def test_merging_the_tiles_of_a_plane_gives_it_back(height, width, tiling, seed):
    tiles = grid(height, width, *tiling)
    x = np.random.default_rng(seed).uniform(-1, 1, size=(height, width, 2)).astype(np.float32)
    np.testing.assert_allclose(merged(cut(x, tiles), tiles), x, atol=2e-6, rtol=0)


def test_tiles_come_row_by_row():
    assert grid(9, 7, 4, 1).corners == ((0, 0), (0, 3), (3, 0), (3, 3), (5, 0), (5, 3))


def test_gaussian_window():
    for tile in (1, 2, 7, 64):
        window = gaussian_weights(tile)
        assert window.dtype == np.float32
        assert window.min() > 0
        assert np.array_equal(window, window[::-1])
    # exp(-x^2 / (2 * 0.01)) at x = 0.4 and 0.2 tiles from the middle of 5
    np.testing.assert_allclose(gaussian_weights(5), [np.exp(-8), np.exp(-2), 1, np.exp(-2), np.exp(-8)], rtol=1e-6)


def test_overlap_is_blended_by_the_window():
    """Two tiles of 0 and 1 over a strip: across the overlap the mean is the second window's share."""
    tiles = grid(4, 6, 4, 2)
    values = np.stack([np.zeros((4, 4, 1)), np.ones((4, 4, 1))]).astype(np.float32)
    window = gaussian_weights(4)
    share = [window[0] / (window[2] + window[0]), window[1] / (window[3] + window[1])]
    np.testing.assert_allclose(merged(values, tiles)[2, :, 0], [0, 0, *share, 1, 1], rtol=1e-5)


def test_scaled_plan():
    tiles = grid(21, 9, 8, 4)
    assert tiles.scaled(8) == grid(168, 72, 64, 32)
    odd = grid(21, 9, 8, 3)
    assert odd.scaled(2).tops == tuple(2 * top for top in odd.tops)


@pytest.mark.parametrize("arguments", [(0, 4, 4, 1), (4, 4, 4, 4), (4, 4, 4, -1), (4, 4, 0, 0)])
def test_impossible_plans_are_refused(arguments):
    with pytest.raises(InputError, match="expected"):
        grid(*arguments)
