"""The colour fixes against StableSR's in torch: recorded results always, the live functions where it is installed."""

import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.imaging.color import COLOR_FIXES, adain, contrast, none, wavelet

GOLDEN = Path(__file__).parents[1] / "golden" / "color.npz"
NAMES = ("wide", "square", "narrow", "tiny")
SHAPES = {"wide": (2, 17, 33, 3), "square": (1, 40, 40, 3), "narrow": (1, 1, 40, 3), "tiny": (1, 3, 2, 3)}


def pictures(name, seed=0):
    """As `tests.golden.make_color` makes them; repeated here because that module needs torch."""
    rng = np.random.default_rng([seed, *SHAPES[name]])
    image = rng.uniform(-1, 1, SHAPES[name])
    source = np.clip(0.4 * image + 0.2 * rng.uniform(-1, 1, SHAPES[name]) + (0.3, -0.2, 0.1), -1, 1)
    return image.astype(np.float32), source.astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fix", ["adain", "wavelet"])
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_equals_the_recorded_reference(name, fix, convert):
    image, source = pictures(name)
    result = COLOR_FIXES[fix](convert(image), convert(source))
    assert isinstance(result, jax.Array) == (convert is jnp.asarray)
    assert result.dtype == np.float32
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(result, golden[f"{name}_{fix}"], atol=2e-6, rtol=0)


@pytest.mark.reference
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_live_reference(name):
    pytest.importorskip("torch")
    from tests.golden import make_color

    image, source = pictures(name, seed=1)
    for fix, reference in ((adain, make_color.torch_adain), (wavelet, make_color.torch_wavelet)):
        np.testing.assert_allclose(fix(image, source), make_color.on_nhwc(reference, image, source), atol=2e-6, rtol=0)


@settings(deadline=None, max_examples=50)
@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_any_size_keeps_its_promise(height, width, seed):
    rng = np.random.default_rng(seed)
    image, source = rng.normal(size=(2, height, width, 3))
    moved = adain(image, source)
    np.testing.assert_allclose(moved.mean((0, 1)), source.mean((0, 1)), atol=1e-6)
    if height * width > 1:
        ratio = moved.std((0, 1)) / source.std((0, 1))
        assert np.all((ratio > 0.9) & (ratio < 1.01))  # short of 1 only by epsilon, where the image is nearly flat
    np.testing.assert_allclose(wavelet(image, image), image, atol=1e-12)
    np.testing.assert_allclose(wavelet(image + 5, image), image, atol=1e-12)
    assert none(image, source) is image


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_contrast_that_was_gained_is_taken_back_and_nothing_else(gain):
    _, source = pictures("square")
    moved = np.float32([0.2, 0.0, -0.1])
    expected = source if gain >= 1 else source.mean((1, 2)) + gain * (source - source.mean((1, 2)))
    np.testing.assert_allclose(contrast(gain * source + moved, source), expected, atol=1e-4)
    # What a blur hides, as the edges of a sharper picture, counts little: adain would take a third of this picture.
    checks = 0.5 * (-1.0) ** np.add.outer(np.arange(40), np.arange(40))[None, :, :, None].astype(np.float32)
    smooth = np.linspace(-0.5, 0.5, 40, dtype=np.float32)[None, None, :, None] * np.ones((1, 40, 1, 3), np.float32)
    np.testing.assert_allclose(contrast(smooth + checks, smooth), smooth + checks, atol=5e-3)


@pytest.mark.parametrize("fix", COLOR_FIXES)
def test_a_single_pixel_and_flat_pictures_stay_finite(fix):
    for shape in ((1, 1, 3), (1, 1, 1, 3), (1, 200, 3), (200, 1, 3)):
        image, source = np.full(shape, 0.25, np.float32), np.full(shape, -0.5, np.float32)
        result = COLOR_FIXES[fix](image, source)
        assert result.shape == shape
        assert np.allclose(result, image if fix == "none" else source, atol=1e-6)


def test_batch_members_do_not_mix():
    image, source = pictures("wide")
    for fix in (adain, contrast, wavelet):
        for i in range(2):
            np.testing.assert_allclose(fix(image, source)[i], fix(image[i], source[i]), atol=1e-6)


def test_under_jit():
    image, source = pictures("tiny")
    for fix in (adain, contrast, wavelet):
        np.testing.assert_allclose(jax.jit(fix)(image, source), fix(image, source), atol=2e-6)


@pytest.mark.parametrize("name", ["adain", "contrast", "wavelet"])
def test_memory_is_for_three_more_pictures(name):
    """wavelet took 7 and contrast 10 before the channels came one after the other."""
    rng = np.random.default_rng(0)
    image, source = (rng.normal(size=(400, 300, 3)).astype(np.float32) for _ in range(2))
    COLOR_FIXES[name](image[:8, :8], source[:8, :8])  # what is imported at the first call does not count
    tracemalloc.start()
    COLOR_FIXES[name](image, source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3.05 * image.nbytes
