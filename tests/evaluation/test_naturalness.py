"""NIQE against published values, and its parts against distributions and pictures whose answer is known."""

import importlib.util
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.evaluation import naturalness
from cassr_jax.evaluation.naturalness import niqe, pristine_statistics

STATISTICS = (np.zeros(36), np.eye(36))


# pyiqa's own row `niqe(ours)` of its calibration table; the authors' MATLAB gives 3.6549, 3.2355, 3.1840, 8.6352. The
# fifth picture there, I03, is off by 0.006.
@pytest.mark.parametrize(("picture", "published"), [("I04", 3.6549), ("I06", 3.2342), ("I08", 3.1922), ("I19", 9.0722)])
def test_published_values(picture, published):
    spec = importlib.util.find_spec("pyiqa")
    path = Path(spec.origin).parents[1] / f"ResultsCalibra/dist_dir/{picture}.bmp" if spec and spec.origin else None
    if path is None or not path.is_file():
        pytest.skip("pyiqa 0.1.16, which ships the calibration pictures, is not installed")
    try:
        statistics = pristine_statistics()
    except InputError as error:
        pytest.skip(str(error))
    assert niqe(cv2.imread(str(path))[..., ::-1], statistics) == pytest.approx(published, abs=1e-3)


def test_grey_is_rounded_exactly_but_for_halves():
    image = np.random.default_rng(0).integers(0, 256, (500, 400, 3), np.uint8)
    thousandths = image.astype(np.int64) @ [299, 587, 114]
    half = thousandths % 1000 == 500
    grey = naturalness._grey(image)
    assert half.any()
    np.testing.assert_array_equal(grey[~half], (thousandths[~half] + 500) // 1000)
    assert set(grey[half] - thousandths[half] // 1000) == {0, 1}


def test_every_flat_area_lies_on_one_side_of_its_surroundings():
    for level in range(1, 256):
        left, right = naturalness._features(np.full((96, 96), float(level)), 96)[0, 4:6]  # of products of neighbours
        assert math.isnan(left)
        assert right > 0


@pytest.mark.parametrize(("sampler", "shape"), [("laplace", 1.0), ("normal", 2.0)])
def test_the_fit_recovers_shape_and_both_scales(sampler, shape):
    x = np.abs(getattr(np.random.default_rng(0), sampler)(size=(2, 500, 500)))
    sides = np.where(np.random.default_rng(1).random(x.shape) < 2 / 5, -2.0, 3.0)  # each side as likely as it is wide
    alpha, left, right = naturalness._fit(x * sides)
    scale = 1 if sampler == "laplace" else math.sqrt(2)  # of exp(-(|x| / scale) ** shape)
    np.testing.assert_allclose(alpha, shape, rtol=0.02)
    np.testing.assert_allclose(left, 2 * scale, rtol=0.02)
    np.testing.assert_allclose(right, 3 * scale, rtol=0.02)


def test_halving_keeps_constants_and_ramps_and_mirrors_the_edges():
    np.testing.assert_allclose(naturalness._half(np.full((12, 10), 7.0)), np.full((6, 5), 7.0))
    ramp = np.add.outer(np.arange(24.0), 3 * np.arange(20.0))
    np.testing.assert_allclose(naturalness._half(ramp)[2:-2, 2:-2], (ramp[::2, ::2] + 2)[2:-2, 2:-2])
    impulse = np.zeros((16, 16))
    impulse[0, 8] = 1  # lies a quarter of an output pixel, and, mirrored, three quarters, from the first centre
    weights = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    np.testing.assert_allclose(naturalness._half(impulse)[0, 4], (weights[3] + weights[2]) * weights[3])


def test_blur_and_noise_are_less_natural_than_the_picture():
    rng = np.random.default_rng(0)
    spectrum = np.fft.fftfreq(384)
    radius = np.hypot(spectrum[:, None], spectrum[None])
    radius[0, 0] = 1
    plane = np.fft.ifft2(np.fft.fft2(rng.normal(size=(384, 384))) / radius).real  # a photograph's spectrum
    picture = np.repeat((127 + 40 * plane / plane.std())[..., None], 3, axis=2)

    try:
        statistics = pristine_statistics()
    except InputError as error:
        pytest.skip(str(error))
    natural, blurred, noisy = (
        niqe(image.clip(0, 255).astype(np.uint8), statistics)
        for image in (picture, cv2.GaussianBlur(picture, (0, 0), 3), picture + rng.normal(0, 60, picture.shape))
    )
    assert natural < blurred
    assert natural < noisy


def test_pictures_that_cannot_be_judged_are_refused():
    with pytest.raises(InputError, match="expected sides of at least 192 px"):
        niqe(np.zeros((191, 400, 3), np.uint8), STATISTICS)
    with pytest.raises(InputError, match="texture"):
        niqe(np.zeros((192, 192, 3), np.uint8), STATISTICS)


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(naturalness.importlib.util, "find_spec", lambda name: None)
    pristine_statistics.cache_clear()
    with pytest.raises(InputError, match="basicsr"):
        pristine_statistics()
