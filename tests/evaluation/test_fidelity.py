"""PSNR and SSIM against whole two-dimensional windows in torch, and where they must be exact."""

from pathlib import Path

import numpy as np
import pytest

from cassr_jax.evaluation.fidelity import luma, psnr, ssim

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz")


def test_equals_torch():
    first, second = GOLDEN["pictures"]
    planes = [(luma(a), luma(b)) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose([(psnr(a, b), ssim(a, b)) for a, b in planes], GOLDEN["fidelity"], rtol=1e-9)


def test_luma_of_black_white_and_the_primaries():
    colors = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(luma(colors), [[16, 235, 81.481, 144.553, 40.966]])


def test_one_level_everywhere_is_48_decibels():
    a = np.full((16, 16), 100, np.uint8)
    assert psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-4)


def test_equal_pictures():
    a = luma(GOLDEN["pictures"][0, 0])
    assert psnr(a, a) == np.inf
    assert ssim(a, a) == pytest.approx(1)


def test_inverted_texture_counts_as_no_structure():
    a = np.tile(np.array([[100.0, 156.0], [156.0, 100.0]]), (16, 16))
    assert 0 <= ssim(a, 256 - a) < 1e-3


def test_unequal_shapes_and_small_planes_are_refused():
    with pytest.raises(ValueError, match="expected the same shape twice"):
        psnr(np.zeros((12, 12)), np.zeros((12, 13)))
    with pytest.raises(ValueError, match="11x11"):
        ssim(np.zeros((10, 12)), np.zeros((10, 12)))
