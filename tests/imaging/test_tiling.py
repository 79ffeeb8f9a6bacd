import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.errors import InputError
from cassr_jax.imaging.tiling import axis_weights, gather, gaussian_weights, grid, merge

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
@given(height=sizes, width=sizes, tiling=tilings, batch=st.integers(1, 2), seed=st.integers(0, 99))
def test_merging_what_was_gathered_gives_the_plane_back(height, width, tiling, batch, seed):
    tiles = grid(height, width, *tiling)
    x = np.random.default_rng(seed).normal(size=(batch, height, width, 2)).astype(np.float32)
    cut = gather(x, tiles)
    assert cut.shape == (batch * tiles.count, tiling[0], tiling[0], 2)
    np.testing.assert_allclose(merge(cut, tiles), x, atol=2e-6, rtol=0)


@settings(deadline=None, max_examples=20)
@given(height=sizes, width=sizes, tiling=tilings)
def test_constant_stays_constant(height, width, tiling):
    tiles = grid(height, width, *tiling)
    ones = np.ones((tiles.count, tiling[0], tiling[0], 1), np.float32)
    np.testing.assert_allclose(merge(ones, tiles), np.ones((1, height, width, 1)), atol=1e-6)


def test_order_and_place_of_each_tile():
    x = np.arange(2 * 9 * 7, dtype=np.float32).reshape(2, 9, 7, 1)
    tiles = grid(9, 7, 4, 1)
    assert tiles.corners == ((0, 0), (0, 3), (3, 0), (3, 3), (5, 0), (5, 3))
    cut = np.asarray(gather(x, tiles))
    for b in range(2):
        for n, (top, left) in enumerate(tiles.corners):
            assert np.array_equal(cut[b * tiles.count + n], x[b, top : top + 4, left : left + 4])


def test_small_plane_repeats_its_border():
    cut = np.asarray(gather(np.array([[[[1.0], [2.0]]]]), grid(1, 2, 3, 1)))
    assert cut[0, :, :, 0].tolist() == [[1, 2, 2]] * 3


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
    np.testing.assert_allclose(merge(values, tiles)[0, 2, :, 0], [0, 0, *share, 1, 1], rtol=1e-5)


@pytest.mark.parametrize("size", [(5, 5), (16, 16), (21, 40), (7, 33)])
def test_summing_tiles_one_by_one_gives_the_same(size):
    tiles = grid(*size, 16, 6)
    values = np.random.default_rng(0).normal(size=(tiles.count, 16, 16, 3)).astype(np.float32)
    rows = axis_weights(tiles.tops, size[0], gaussian_weights(16))
    columns = axis_weights(tiles.lefts, size[1], gaussian_weights(16))
    canvas = np.zeros((max(16, size[0]), max(16, size[1]), 3), np.float32)
    for n, (top, left) in enumerate(tiles.corners):
        i, j = divmod(n, len(tiles.lefts))
        canvas[top : top + 16, left : left + 16] += np.outer(rows[i], columns[j])[..., None] * values[n]
    np.testing.assert_allclose(canvas[: size[0], : size[1]], merge(values, tiles)[0], atol=1e-6)


def test_traces_with_a_static_plan_and_keeps_the_dtype():
    tiles = grid(20, 13, 8, 3)
    x = np.random.default_rng(0).normal(size=(2, 20, 13, 4)).astype("bfloat16")

    @functools.partial(jax.jit, static_argnums=1)
    def through(x, tiles):
        return merge(gather(x, tiles), tiles)

    assert isinstance(through(x, tiles), jax.Array)
    assert through(x, tiles).dtype == x.dtype
    np.testing.assert_allclose(through(x, tiles).astype(np.float32), x.astype(np.float32), atol=0.02)
    assert through._cache_size() == 1


def test_jax_and_numpy_agree():
    tiles = grid(11, 23, 8, 5)
    x = np.random.default_rng(0).normal(size=(1, 11, 23, 2)).astype(np.float32)
    cut = gather(x, tiles)
    assert isinstance(cut, np.ndarray)
    assert np.array_equal(gather(jax.numpy.asarray(x), tiles), cut)
    cut = cut * np.arange(1, tiles.count + 1, dtype=np.float32)[:, None, None, None]
    np.testing.assert_allclose(merge(jax.numpy.asarray(cut), tiles), merge(cut, tiles), atol=1e-5)


def test_scaled_plan():
    tiles = grid(21, 9, 8, 4)
    assert tiles.scaled(8) == grid(168, 72, 64, 32)
    odd = grid(21, 9, 8, 3)
    assert odd.scaled(2).tops == tuple(2 * top for top in odd.tops)


@pytest.mark.parametrize("arguments", [(0, 4, 4, 1), (4, 4, 4, 4), (4, 4, 4, -1), (4, 4, 0, 0)])
def test_impossible_plans_are_refused(arguments):
    with pytest.raises(InputError, match="expected"):
        grid(*arguments)
