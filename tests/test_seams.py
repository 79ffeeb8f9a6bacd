"""Pictures of several tiles beside the same picture in one."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cassr_jax
from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion.samplers import DDIM, advance, begin
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.imaging import tiling
from cassr_jax.models.parameters import merge
from cassr_jax.models.vae import AutoencoderKL
from cassr_jax.networks import Networks, merge_all
from cassr_jax.sampling import Canvas, Inputs, Setting, condition, decode, denoise, make_trajectory
from tests.random_cascade import NETWORKS, random_params

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def decoder() -> Callable[[jax.Array, Canvas | None], np.ndarray]:
    """Decodes latents with the narrow random autoencoder, whole or in tiles."""
    networks = Networks().with_new("vae", NETWORKS["vae"], jnp.float32, jax.random.key(0))
    vae = merge(networks.graphdefs["vae"], random_params("vae"))

    def run(latents: jax.Array, canvas: Canvas | None = None) -> np.ndarray:
        if canvas is None:
            return np.asarray(jax.jit(vae.decode)(latents))
        setting = Setting(canvas, DDIM(), guided=False)
        return np.asarray(jax.jit(lambda z: decode(vae, None, begin(z), unread(z), setting))(latents))

    return run


def unread(latents: jax.Array) -> Inputs:
    """Inputs for the decoder, which reads none of them without a fusion."""
    trajectory = make_trajectory(Schedule(), SamplingConfig())
    return Inputs((), None, jnp.zeros_like(latents), jnp.zeros((2, 1, 1)), trajectory, np.float32(1))


def smooth(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:30, 0:40]
    return np.stack([x / 10 - 2, y / 10 - 1.5, np.ones_like(x)], -1) @ rng.normal(size=(3, 4))


def plain_on_the_left(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(30, 40, 4)) * np.where(np.arange(40) < 20, 0.1, 1)[:, None]


@pytest.mark.parametrize("kind", [smooth, plain_on_the_left])
def test_decoded_tiles_fit_whatever_is_in_them(decoder, kind: Callable[[np.random.Generator], np.ndarray]):
    """Each by its own moments, they are 1.3 and 2.1 levels of 255 off."""
    latents = kind(np.random.default_rng(0))[None].astype(np.float32)
    tiles = tiling.grid(30, 40, 16, 8)
    assert (len(tiles.tops), len(tiles.lefts)) == (3, 4)
    difference = decoder(latents, Canvas(tiles, 4, at_once=4)) - decoder(latents, None)
    assert np.abs(difference).mean() * 127.5 < 0.5


class Pointwise:
    """A denoiser whose prediction at a place depends on nothing but what is given there."""

    def embed_text(self, encoder_hidden_states: jax.Array) -> jax.Array:
        return encoder_hidden_states.mean((1, 2))[:, None, None, None]

    def embed_images(self, image: jax.Array) -> jax.Array:
        return image[:, ::4, ::4].mean(-1, keepdims=True)

    def embed_time(self, timesteps: jax.Array) -> jax.Array:
        return timesteps[:, None, None, None] / 1000

    def __call__(self, latents: jax.Array, temb: jax.Array, text: jax.Array, hints: jax.Array) -> jax.Array:
        hints = jnp.concatenate([hints] * (len(latents) // len(hints)))
        return jnp.sin(3 * latents * text) * hints + temb


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("at_once", [1, 4])
def test_tiles_are_denoised_as_the_whole_is(at_once: int, guided: bool):
    """Every tile with its own hints, the negative prompt's prediction apart from the prompt's."""
    rng = np.random.default_rng(0)
    image, noise = (jnp.asarray(rng.normal(size=(1, *size)), jnp.float32) for size in ((48, 64, 3), (12, 16, 4)))
    prompts = jnp.asarray([[[0.3, 0.5]], [[1.0, 1.4]]], jnp.float32)
    canvas = Canvas(tiling.grid(12, 16, 8, 2), 4, at_once)
    assert canvas.tiles.count == 6
    trajectory = make_trajectory(Schedule(), SamplingConfig(num_steps=2, sampler="ddim"))
    inputs = Inputs((image,), None, noise, prompts, trajectory, np.float32(2.5))
    setting, denoiser, carry = Setting(canvas, DDIM(), guided), Pointwise(), begin(noise)
    found = denoise(denoiser, condition(denoiser, inputs, setting), carry, inputs, 0, 2, setting)

    def predict(x: jax.Array, step: jax.Array) -> jax.Array:
        hints, temb = denoiser.embed_images(image), jnp.asarray(trajectory.timesteps)[step] / 1000
        negative, positive = (denoiser(x, temb, text, hints) for text in (0.4, 1.2))
        return 2.5 * positive - 1.5 * negative if guided else positive

    expected = advance(predict, DDIM(), trajectory, carry, 0, 2)
    np.testing.assert_allclose(found.latents, expected.latents, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["gradient", "bridge"])
def test_the_embedded_decoder_shows_no_tile_border(picture: str):
    """160x120 times four, in 3x3 of its tiles, beside one tile: row and column means, and on a photograph the gradient
    where tiles overlap beside that where they do not (on so weak a ramp that is 4 % off, of next to nothing). The
    outermost 8 pixels, the picture's own border, are left out."""
    cassr = cassr_jax.load("tiny", activation="identity")
    canvas = cassr._canvas(480, 640, None)
    tiles = canvas.pixels
    assert canvas.tiles.count == 9
    if picture == "gradient":
        y, x = np.mgrid[0:480, 0:640] / np.array([480, 640])[:, None, None]
        rgb = np.stack([60 + 120 * x, 90 + 100 * y, 200 - 60 * (x + y)], -1)
    else:
        with Image.open(EXAMPLES / "bridge.jpg") as image:
            rgb = np.asarray(image.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC), np.float32)
    vae: AutoencoderKL = merge_all(cassr.networks.graphdefs, cassr.networks.params)["vae"]
    latents = jax.jit(vae.encode)((rgb / 127.5 - 1)[None].astype(np.float32))
    whole = np.asarray(jax.jit(vae.decode)(latents))[0] * 127.5
    setting, params = Setting(canvas, DDIM(), guided=False), cassr.networks.params
    in_tiles = np.asarray(cassr._programs._decode(params, begin(latents), unread(latents), setting))[0] * 127.5
    for axis, starts in ((0, tiles.tops), (1, tiles.lefts)):
        other = (1 - axis, 2)
        steps = np.abs(np.diff((in_tiles - whole).mean(1 - axis), axis=0))
        assert steps[8:-8].max() < 1
        shared = np.zeros(len(steps), bool)
        for first, second in pairwise(starts):
            shared[second : first + tiles.tile] = True
        one, many = (np.abs(np.diff(image, axis=axis)).mean(other) for image in (whole, in_tiles))
        at_borders, elsewhere = ((many * where)[8:-8].sum() / (one * where)[8:-8].sum() for where in (shared, ~shared))
        assert picture == "gradient" or abs(at_borders / elsewhere - 1) < 0.02
