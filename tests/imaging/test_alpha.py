"""Colours beside an alpha: resized multiplied by it, so that none shows more than it did."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from cassr_jax.imaging import io, resizing
from cassr_jax.imaging.alpha import beside, shown

WHITE, BLACK, GREY, RED, CYAN = (255,) * 3, (0,) * 3, (128,) * 3, (200, 30, 30), (0, 255, 255)


def enlarged(rgb: np.ndarray) -> np.ndarray:
    return resizing.bicubic(rgb, (4 * rgb.shape[0], 4 * rgb.shape[1]))


def sharpened(rgb: np.ndarray) -> np.ndarray:
    """As a network does that makes every edge steeper, without going beyond what is on its two sides."""
    soft, around = enlarged(rgb).astype(np.float32), np.ones((13, 13), np.uint8)
    steeper = 2.5 * soft - 1.5 * cv2.GaussianBlur(soft, (0, 0), 3)
    return np.clip(np.rint(steeper), cv2.erode(soft, around), cv2.dilate(soft, around)).astype(np.uint8)


def squared(rgb: np.ndarray) -> np.ndarray:
    """As a network does that makes every edge hard."""
    return rgb.repeat(4, 0).repeat(4, 1)


NETWORKS = [enlarged, sharpened, squared]


def window(inside: tuple[int, ...], outside: tuple[int, ...], faint: int) -> io.Picture:
    """An opaque colour in a corner, the other one around it."""
    rgb, alpha = np.full((48, 64, 3), outside, np.uint8), np.full((48, 64), faint, np.uint8)
    rgb[:32, :48], alpha[:32, :48] = inside, 255
    return io.Picture(rgb, alpha)


def laid_over(picture: io.Picture, ground: tuple[int, ...]) -> np.ndarray:
    assert picture.alpha is not None
    share = picture.alpha[..., None] / 255
    return picture.rgb * share + (1 - share) * np.array(ground)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_black_shadow_beside_white_stays_as_faint_as_it_is(network: Callable[[np.ndarray], np.ndarray]):
    """Over white it is 235; bicubic on colours multiplied by their alpha goes down to 233 at the edge."""
    result = laid_over(io.upscale(window(WHITE, BLACK, 20), network), WHITE)
    assert 230 <= result.min() <= 236


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("faint", [1, 5, 20])
@pytest.mark.parametrize(("inside", "outside"), [(WHITE, BLACK), (BLACK, WHITE), (RED, CYAN), (GREY, BLACK)])
def test_no_rim_over_any_ground(inside, outside, faint, network):
    """Nothing leaves the span between the ground and what stood over it by more than the faint colour can."""
    picture = window(inside, outside, faint)
    restored = io.upscale(picture, network)
    for ground in (WHITE, BLACK, GREY):
        before, result = laid_over(picture, ground), laid_over(restored, ground)
        allowed = faint / 2 + 3
        opaque, hidden = before[:32, :48].min((0, 1)), np.array(ground)
        around = before[40:, 56:].min((0, 1))
        least = np.minimum(np.minimum(opaque, around), hidden) - allowed
        most = np.maximum(np.maximum(opaque, around), hidden) + allowed
        assert ((result >= least) & (result <= most)).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_where_all_is_opaque_the_result_is_the_networks(network):
    picture = window(WHITE, BLACK, 20)
    noise = np.random.default_rng(0).integers(0, 256, (28, 44, 3)).astype(np.uint8)
    picture.rgb[:28, :44] = noise
    made = network(io.opaque(picture))
    result = io.with_rgb(picture, made)
    assert np.array_equal(result.rgb[: 4 * 26, : 4 * 42], made[: 4 * 26, : 4 * 42])
    assert np.array_equal(np.unique(result.alpha[-8:, -8:]), [20])
    opaque = io.Picture(picture.rgb, np.full_like(picture.alpha, 255))
    assert np.array_equal(io.upscale(opaque, network).rgb, network(picture.rgb))


@pytest.mark.parametrize("scale", [4, 2.5, 0.5])
def test_alpha_never_leaves_the_range_of_its_neighbours(scale):
    """A hard edge between 100 and 200: bicubic alone goes from 93 to 207."""
    alpha = np.full((24, 32), 100, np.uint8)
    alpha[:, 16:] = 200
    size = round(24 * scale), round(32 * scale)
    plain = resizing.bicubic(alpha, size)
    _, enlarged = beside(alpha, np.zeros((24, 32, 3), np.uint8), np.zeros((*size, 3), np.uint8))
    assert (plain.min(), plain.max()) != (100, 200)
    assert (enlarged.min(), enlarged.max()) == (100, 200)
    inside = (plain >= 100) & (plain <= 200)
    assert np.array_equal(enlarged[inside], plain[inside])


def test_a_picture_of_one_faint_alpha_keeps_its_detail():
    rgb = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    result = io.upscale(io.Picture(rgb, np.full((24, 24), 90, np.uint8)), sharpened)
    assert np.abs(result.rgb.astype(int) - sharpened(rgb)).max() <= 1
    assert np.array_equal(np.unique(result.alpha), [90])


def test_a_network_is_shown_no_edge_where_the_colours_show_none():
    picture = window(WHITE, BLACK, 20)
    steps = np.abs(np.diff(io.opaque(picture).astype(int), axis=0))[:, :40]
    assert steps[:34].max() < 60  # white and black lie 255 apart


def test_hidden_pixels_take_the_nearest_visible_colour():
    rgb = np.zeros((1, 12, 3), np.uint8)
    rgb[0, 0], rgb[0, 11] = (10, 20, 30), (200, 100, 0)
    alpha = np.array([[255] + 10 * [0] + [1]], np.uint8)
    assert shown(rgb, alpha)[0, :, 0].tolist() == 6 * [10] + 6 * [200]
    assert np.array_equal(shown(rgb, np.zeros_like(alpha)), rgb)
