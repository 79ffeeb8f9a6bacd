"""Each operation against its definition, the whole against the published program's statistics."""

import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cassr_jax.data import degradation
from cassr_jax.data.degradation import (
    add_gaussian_noise,
    add_poisson_noise,
    blur,
    compress,
    degrade,
    gaussian_blur,
    to_uint8,
    unsharp_mask,
)
from cassr_jax.data.kernels import gaussian
from cassr_jax.data.presets import PRESETS
from tests.data.measures import MEASURES, picture

PUBLISHED = ("light", "realesrgan", "stablesr")  # `camera` is ours


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "golden" / "degradation.npz") as file:
        return dict(file)


def unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def test_blur_is_the_sum_over_a_reflected_border():
    image = np.random.default_rng(0).random((19, 24, 3), dtype=np.float32)
    kernel = np.random.default_rng(1).random((13, 13)).astype(np.float32)
    padded = np.pad(image, ((6, 6), (6, 6), (0, 0)), mode="reflect")
    expected = np.zeros_like(image, np.float64)
    for row in range(13):
        for column in range(13):
            expected += kernel[row, column] * padded[row : row + 19, column : column + 24]
    np.testing.assert_allclose(blur(image, kernel), expected, rtol=1e-5)


def test_blur_and_sharpening_equal_basicsr(golden):
    image = unit(picture(64, seed=3))
    # Recorded in half precision: a step is 5e-4 near 1.
    np.testing.assert_allclose(blur(image, gaussian(13, 2.0, 0.7, 1.1)), golden["blurred"], atol=3e-4)
    np.testing.assert_allclose(unsharp_mask(image), golden["sharpened"], atol=3e-4)
    assert np.abs(unsharp_mask(image) - image).max() > 0.05


def test_sharpening_leaves_a_soft_picture_as_it_is():
    ramp = np.repeat(np.linspace(0.3, 0.5, 120, dtype=np.float32)[None, :, None], 3, axis=2).repeat(120, axis=0)
    np.testing.assert_allclose(unsharp_mask(ramp), ramp, atol=1e-6)


@pytest.mark.parametrize("gray", [False, True])
def test_moments_of_gaussian_noise(gray):
    image = np.full((200, 200, 3), 0.5, np.float32)
    noise = add_gaussian_noise(np.random.default_rng(0), image, 20.0, gray=gray) - image
    samples = noise[..., 0] if gray else noise
    assert abs(samples.mean()) < 4 * (20 / 255) / np.sqrt(samples.size)
    assert samples.std() * 255 == pytest.approx(20, rel=4 / np.sqrt(2 * samples.size))
    correlation = np.corrcoef(noise[..., 0].ravel(), noise[..., 2].ravel())[0, 1]
    assert correlation > 0.9999 if gray else abs(correlation) < 0.03


@pytest.mark.parametrize("gray", [False, True])
def test_moments_of_poisson_noise(gray):
    """At a grey pixel v of a picture with n different values, rounded up to a power of two: variance s^2 v / n."""
    levels = np.repeat(np.linspace(40, 160, 40).round().astype(np.uint8), 200 * 5).reshape(200, 200)
    image = unit(np.repeat(levels[..., None], 3, axis=2))
    photons, scale = 64, 0.8  # 40 values
    noise = add_poisson_noise(np.random.default_rng(0), image, scale, gray=gray) - image
    for level in np.unique(levels):
        samples = noise[levels == level][:, 0 if gray else slice(None)]
        deviation = scale * np.sqrt(level / 255 / photons)
        # Grey 0.2989 R + 0.587 G + 0.114 B falls 1e-4 short of white.
        assert abs(samples.mean()) < 4.5 * deviation / np.sqrt(samples.size) + 1e-4
        assert samples.std() == pytest.approx(deviation, rel=4.5 * np.sqrt(0.6 / samples.size))
    correlation = np.corrcoef(noise[..., 0].ravel(), noise[..., 2].ravel())[0, 1]
    assert correlation > 0.9999 if gray else abs(correlation) < 0.03


def test_gray_poisson_noise_is_that_of_the_luma():
    """On a ramp in red alone, whose luma is 0.2989 of it and what green and blue hold."""
    red = np.linspace(0.2, 0.7, 40, dtype=np.float32)
    image = np.tile(np.stack([red, np.full_like(red, 0.3), np.full_like(red, 0.3)], axis=-1), (4000, 1, 1))
    luma = np.rint((0.2989 * red + (0.587 + 0.114) * 0.3) * 255)
    assert 32 < len(np.unique(luma)) <= 64
    noise = add_poisson_noise(np.random.default_rng(0), image, 0.5, gray=True) - image
    np.testing.assert_allclose(noise[..., 0].std(axis=0), 0.5 * np.sqrt(luma / 255 / 64), rtol=0.05)


def test_noise_stays_in_range():
    image = unit(picture(48, seed=0))
    for noisy in (
        add_gaussian_noise(np.random.default_rng(0), image, 90.0, gray=False),
        add_poisson_noise(np.random.default_rng(0), image, 9.0, gray=False),
    ):
        assert noisy.min() == 0.0
        assert noisy.max() == 1.0


@pytest.mark.parametrize("quality", [30, 61, 95, 100])
@pytest.mark.parametrize("shape", [(64, 64), (37, 51), (1, 3)])
def test_compression_is_the_codec(quality, shape):
    """Pillow's own writer and reader, at 4:2:0, give the same picture to the codec's rounding."""
    image = picture(64, seed=1)[: shape[0], : shape[1]]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.array(Image.open(file)).astype(int)
    found = to_uint8(compress(unit(image), quality)).astype(int)
    difference = np.abs(found - expected)
    assert difference.max() <= 4
    assert difference.mean() < 0.25
    assert np.abs(found - image).mean() > 2 * difference.mean()  # it does compress


def test_compression_halves_the_colours_resolution():
    stripes = np.zeros((64, 64, 3), np.float32)
    stripes[:, ::2] = (1.0, 0.0, 0.0)
    stripes[:, 1::2] = (0.0, 0.0, 1.0)
    compressed = compress(stripes, 95)
    assert np.abs(compressed[:, 8:-8, 2] - compressed[:, 8:-8, 0]).mean() < 0.25  # it was 1


def test_a_camera_has_less_noise_than_the_web_and_some_blur():
    """Over 100 draws: how much the rows of a ramp differ, and how much of a step of 200 levels one pixel takes."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    step = np.where(ramp < 128, np.uint8(28), np.uint8(228))
    noise, steepest = (
        {name: [of(degrade(image, seed, PRESETS[name])[0]) for seed in range(100)] for name in ("camera", "light")}
        for image, of in (
            (ramp, lambda lr: lr.std(axis=0).mean()),
            (step, lambda lr: np.diff(lr.astype(float).mean((0, 2))).max()),
        )
    )
    assert 0 < np.mean(noise["camera"]) < 0.5 * np.mean(noise["light"])
    assert 100 < np.median(steepest["camera"]) < 150


def test_presets_are_the_table():
    light, realesrgan, stablesr = (PRESETS[name] for name in ("light", "realesrgan", "stablesr"))
    assert set(PRESETS) == {*PUBLISHED, "camera"}
    table = [
        # preset, (up, down, keep), range, gaussian, sigma, poisson, jpeg, blur sigma, sinc, beta, plateau, blur prob
        (light.first, (0.2, 0.7, 0.1), (0.3, 1.5), 0.5, (1, 15), (0.05, 2.0), (60, 95), (0.2, 3), 0.1, 4, 2, 1.0),
        (light.second, (0.3, 0.4, 0.3), (0.6, 1.2), 0.5, (1, 12), (0.05, 1.0), (60, 100), (0.2, 1.5), 0.1, 4, 2, 0.5),
        (realesrgan.first, (0.2, 0.7, 0.1), (0.15, 1.5), 0.5, (1, 30), (0.05, 3.0), (30, 95), (0.2, 3), 0.1, 4, 2, 1.0),
        (
            realesrgan.second,
            *((0.3, 0.4, 0.3), (0.3, 1.2), 0.5, (1, 25), (0.05, 2.5), (30, 95), (0.2, 1.5), 0.1, 4, 2, 0.8),
        ),
        (stablesr.first, (0.2, 0.7, 0.1), (0.3, 1.5), 0.5, (1, 15), (0.05, 2.0), (60, 95), (0.2, 1.5), 0.1, 2, 1.5, 1),
        (
            stablesr.second,
            *((0.3, 0.4, 0.3), (0.6, 1.2), 0.5, (1, 12), (0.05, 1.0), (60, 100), (0.2, 1.0), 0.1, 2, 1.5, 0.5),
        ),
    ]
    for order, prob, range_, gaussian_prob, sigma, poisson, jpeg, blur_sigma, sinc, beta, flat, blur_prob in table:
        assert order.resize_prob == prob
        assert order.resize_range == range_
        assert order.gaussian_prob == gaussian_prob
        assert order.noise_sigma == sigma
        assert order.poisson_scale == poisson
        assert order.jpeg_quality == jpeg
        assert order.kernel.sigma == blur_sigma
        assert order.kernel.sinc_prob == sinc
        assert order.kernel.beta_generalized == (0.5, beta)
        assert order.kernel.beta_plateau == (1, flat)
        assert order.blur_prob == blur_prob
    assert [p.sharpen for p in (light, realesrgan, stablesr)] == [False, True, True]
    assert [p.final_sinc_prob for p in (light, realesrgan, stablesr)] == [0.8] * 3
    assert [p.no_degradation_prob for p in (light, realesrgan, stablesr)] == [0, 0, 0.01]
    assert stablesr.second.kernel.sizes == (7, 9, 11)
    assert stablesr.first.kernel.sizes == light.first.kernel.sizes == tuple(range(7, 22, 2))
    assert degradation.GRAY_NOISE_PROB == 0.4


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from(sorted(PRESETS)))
def test_any_size_gives_a_quarter_and_the_same_seed_the_same_pair(height, width, seed, name):
    image = np.random.default_rng(0).integers(0, 256, (4 * height, 4 * width, 3), dtype=np.uint8)
    before = image.copy()
    lr, hr = degrade(image, seed, PRESETS[name])
    assert lr.shape == (height, width, 3)
    assert hr.shape == image.shape
    assert lr.dtype == hr.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    again = degrade(image, np.random.default_rng(seed), PRESETS[name])
    np.testing.assert_array_equal(again[0], lr)
    np.testing.assert_array_equal(again[1], hr)


def test_other_seeds_give_other_pictures_and_the_target_is_sharpened_where_the_preset_says_so():
    image = picture(64, seed=0)
    assert len({degrade(image, seed, PRESETS["light"])[0].tobytes() for seed in range(50)}) == 50
    np.testing.assert_array_equal(degrade(image, 0, PRESETS["light"])[1], image)
    for name in ("realesrgan", "stablesr"):
        np.testing.assert_array_equal(degrade(image, 0, PRESETS[name])[1], to_uint8(unsharp_mask(unit(image))))


def test_a_cameras_target_is_blurred_by_a_drawn_sigma_and_its_small_picture_is_not():
    """A step of 200 levels in the target: how much of it one pixel takes gives sigma, in the preset's range."""
    step = np.repeat(np.where(np.arange(64) < 32, np.uint8(28), np.uint8(228))[None, :, None], 64, 0).repeat(3, 2)
    steepest = [np.diff(degrade(step, seed, PRESETS["camera"])[1][32, :, 0].astype(float)).max() for seed in range(50)]
    # A Gaussian of this sigma, sampled: its middle weight, at most a pixel's share of the step.
    least, most = (200 / np.sum(np.exp(-(np.arange(-9, 10) ** 2) / (2 * sigma**2))) for sigma in (0.9, 0.3))
    assert least - 2 <= min(steepest) < least + 15
    assert most - 15 < max(steepest) <= most + 2
    sharp = replace(PRESETS["camera"], soften=None)
    for seed in range(5):
        np.testing.assert_array_equal(degrade(step, seed, PRESETS["camera"])[0], degrade(step, seed, sharp)[0])
        np.testing.assert_array_equal(degrade(step, seed, sharp)[1], step)


def test_a_preset_may_leave_the_picture_clean():
    image = picture(64, seed=0)
    lr, hr = degrade(image, 0, replace(PRESETS["light"], no_degradation_prob=1.0))
    expected = cv2.resize(unit(image), (16, 16), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(lr, np.rint(expected.clip(0, 1) * 255))
    np.testing.assert_array_equal(hr, image)


def test_the_target_of_a_picture_left_clean_is_softened_as_any_other():
    image = picture(64, seed=0)
    softened = replace(PRESETS["camera"], no_degradation_prob=1.0, soften=(0.6, 0.6))
    lr, hr = degrade(image, 0, softened)
    np.testing.assert_array_equal(hr, to_uint8(gaussian_blur(unit(image), 0.6)))
    np.testing.assert_array_equal(lr, degrade(image, 0, replace(softened, soften=None))[0])


def test_a_target_is_not_both_sharpened_and_softened():
    with pytest.raises(ValueError, match=r"sharpen and soften \(0\.3, 0\.9\), expected at most one"):
        replace(PRESETS["camera"], sharpen=True)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((10, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_cannot_be_degraded_is_refused(image):
    with pytest.raises(ValueError, match=r"the picture is .*, expected (uint8|positive multiples)"):
        degrade(image, 0, PRESETS["light"])


@pytest.mark.parametrize(("name", "size"), [("light", 64), ("light", 128), ("camera", 128)])
def test_the_small_picture_is_in_register_with_its_target(name, size):
    """On the mean, the degraded picture lies where its target's own reduction lies, not a quarter of a px off."""
    kinds = replace(PRESETS[name], final_sinc_prob=0.0)
    shifts = []
    for seed in range(60):
        image = picture(size, seed=seed)
        lr, _ = degrade(image, seed, kinds)
        clean = cv2.cvtColor(
            cv2.resize(unit(image), (size // 4, size // 4), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )
        shifts.append(measured_shift(cv2.cvtColor(unit(lr), cv2.COLOR_RGB2GRAY), clean))
    error = np.std(shifts, axis=0) / np.sqrt(len(shifts))
    assert error.max() < 0.03
    assert np.all(np.abs(np.mean(shifts, axis=0)) < 4 * error)


def measured_shift(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(rows, columns) by which `image` lies off `reference`, to first order: least squares on its gradient."""
    smooth = [cv2.GaussianBlur(x, (0, 0), 1.0) for x in (image, reference)]
    rows, columns = np.gradient(smooth[1])
    design = np.stack([-rows.ravel(), -columns.ravel(), smooth[1].ravel(), np.ones(rows.size)], axis=1)
    return np.linalg.lstsq(design, smooth[0].ravel(), rcond=None)[0][:2]


def measured(golden, name: str, draws: int) -> np.ndarray:
    """Every measure of `draws` degraded pictures, (draws, measures), as they were recorded of the published program."""
    assert json.loads(str(golden["measures"])) == list(MEASURES)
    pictures = [picture(int(golden["side"]), seed) for seed in range(16)]
    pairs = (degrade(pictures[draw % 16], draw, PRESETS[name]) for draw in range(draws))
    return np.array([[measure(lr, hr) for measure in MEASURES.values()] for lr, hr in pairs])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_means_are_those_of_the_published_program(golden, name):
    """Over 500 draws, to the error of such a mean."""
    found = measured(golden, name, 500)
    error = golden[f"std_{name}"] * np.sqrt(1 / 500 + 1 / int(golden["draws"]))
    assert np.all(np.abs(found.mean(0) - golden[f"mean_{name}"]) < 3.5 * error)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_whole_has_the_statistics_of_the_published_program(golden, name):
    """Means within 3 %, beyond the error of the recorded means, and the spread of the draws alike."""
    draws = 6000
    found = measured(golden, name, draws)
    error = golden[f"std_{name}"] * np.sqrt(1 / draws + 1 / int(golden["draws"]))
    expected = golden[f"mean_{name}"]
    assert np.all(np.abs(found.mean(0) - expected) < 0.03 * expected + 2 * error)
    np.testing.assert_allclose(
        np.quantile(found, (0.1, 0.25, 0.5, 0.75, 0.9), axis=0), golden[f"quantiles_{name}"], rtol=0.08
    )
