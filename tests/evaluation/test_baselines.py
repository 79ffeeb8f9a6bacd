"""The sceptic's pictures: a blur, a mean, and an autoencoder with no diffusion in between."""

import cv2
import jax
import numpy as np
import pytest

import cassr_jax
from cassr_jax.config import SamplingConfig
from cassr_jax.evaluation import cascades
from cassr_jax.evaluation.baselines import blended, blurred
from cassr_jax.evaluation.cascades import make_autoencode
from cassr_jax.models.parameters import merge, select
from tests.random_cascade import write_random_cascade


@pytest.fixture(scope="module")
def cassr(tmp_path_factory):
    changes = {"activation": "identity", "sampling": SamplingConfig(num_steps=1, guidance_scale=1.0)}
    return cassr_jax.load(write_random_cascade(tmp_path_factory.mktemp("cascade"), **changes))


def test_a_point_becomes_a_gaussian():
    image = np.zeros((31, 31, 3), np.uint8)
    image[15, 15] = 255
    found = blurred(image, 1.0)[15, 15:19, 0]
    distance = np.arange(4)
    np.testing.assert_allclose(found, 255 / (2 * np.pi) * np.exp(-(distance**2) / 2), atol=1)
    flat = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(blurred(flat, 2.0), flat)


def test_a_blend_is_the_one_that_the_cascade_makes(cassr):
    lr = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    alone = cassr.restore(lr, reference_weight=0.0)
    mixed = cassr.restore(lr, reference_weight=0.3)
    np.testing.assert_array_equal(blended(alone.reference, alone.result, 0.3), mixed.result)


def test_the_autoencoder_alone_on_a_size_that_is_no_multiple_of_its_factor(cassr):
    image = cv2.resize(np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8), (43, 37))
    vae = merge(cassr.networks.graphdefs["vae"], select(cassr.networks.params, "vae"))
    factor = cassr.networks.configs["vae"].factor
    rows, columns = (-(-side // factor) * factor for side in image.shape[:2])
    padded = np.pad(image, ((0, rows - 37), (0, columns - 43), (0, 0)), mode="edge")[None] / np.float32(127.5) - 1
    decoded = jax.jit(lambda x: vae.decode(vae.encode(x)))(padded)
    expected = np.clip(np.rint((np.asarray(decoded)[0, :37, :43] + 1) * 127.5), 0, 255)
    found = make_autoencode(cassr)(image)
    assert (np.abs(found - expected) <= 1).all()


def test_a_large_picture_goes_through_the_autoencoder_in_tiles(cassr, monkeypatch):
    """Smooth colours come out in tiles as they do whole, up to what each tile's own moments move."""
    image = cv2.resize(np.random.default_rng(2).integers(0, 256, (3, 3, 3), np.uint8), (96, 64))
    whole = make_autoencode(cassr)(image)
    monkeypatch.setattr(cascades, "_TILE", 64)
    tiled = make_autoencode(cassr)(image)
    assert tiled.shape == image.shape
    assert not np.array_equal(tiled, whole)
    assert np.abs(tiled.astype(int) - whole).mean() < 25
