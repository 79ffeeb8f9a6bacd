"""Pictures of several tiles beside the same picture in one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.diffusion.samplers import begin
from cassr_jax.imaging import tiling
from cassr_jax.models.parameters import merge
from cassr_jax.networks import Networks
from cassr_jax.stage import Canvas, decode
from tests.random_cascade import NETWORKS, random_params


@pytest.fixture(scope="module")
def decoder() -> Callable[[jax.Array, Canvas | None], np.ndarray]:
    """Decodes latents with the narrow random autoencoder, whole or in tiles."""
    networks = Networks().with_new("vae", NETWORKS["vae"], jnp.float32, jax.random.key(0))
    vae = merge(networks.graphdefs["vae"], random_params("vae"))

    def run(latents: jax.Array, canvas: Canvas | None = None) -> np.ndarray:
        return np.asarray(jax.jit(vae.decode if canvas is None else lambda z: decode(vae, begin(z), canvas))(latents))

    return run


def smooth(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:30, 0:40]
    return np.stack([x / 10 - 2, y / 10 - 1.5, np.ones_like(x)], -1) @ rng.normal(size=(3, 4))


def plain_on_the_left(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(30, 40, 4)) * np.where(np.arange(40) < 20, 0.1, 1)[:, None]


@pytest.mark.parametrize("kind", [smooth, plain_on_the_left])
def test_decoded_tiles_fit_whatever_is_in_them(decoder, kind: Callable[[np.random.Generator], np.ndarray]):
    """Each by its own moments, they are 1.3 and 2.1 levels of 255 off."""
    latents = kind(np.random.default_rng(0))[None].astype(np.float32)
    tiles = tiling.plan(30, 40, 16, 8)
    assert (len(tiles.tops), len(tiles.lefts)) == (3, 4)
    difference = decoder(latents, Canvas(tiles, 4, at_once=4)) - decoder(latents, None)
    assert np.abs(difference).mean() * 127.5 < 0.5
