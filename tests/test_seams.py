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
from cassr_jax.cascade import CasSR
from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion.samplers import make_sampler
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.diffusion.trajectory import begin, start_latents
from cassr_jax.engine.engine import Counter, Engine, Passage, Stage, normal
from cassr_jax.engine.layout import Layout
from cassr_jax.engine.programs import Programs
from cassr_jax.engine.seating import mesh_of_tiles
from cassr_jax.engine.waves import waves
from cassr_jax.imaging.pixels import to_float
from cassr_jax.models.vae import AutoencoderKL
from cassr_jax.networks import merge_all
from cassr_jax.sampling import Fresh, fresh_noise, key_of_fresh, make_course
from tests.diffusion.steps import take_steps
from tests.random_cascade import write_random_cascade

EXAMPLES = Path(__file__).parents[1] / "examples"


def decoded_in_tiles(cassr: CasSR, latents: np.ndarray, tile: int, decoder: str = "vae") -> tuple[np.ndarray, Layout]:
    """A plane of latents (h, w, C) decoded by the engine, (H, W, 3), and where the tiles lay."""
    engine, factor = cassr._engine, cassr.networks.configs["vae"].factor
    layout = engine.layout((latents.shape[0] * factor, latents.shape[1] * factor), tile)
    (wave,) = waves([layout], 1, 1)
    stage = Stage(
        cassr._second_stage,
        cassr.config.sampling,
        make_course(cassr.config.schedule, cassr.config.sampling),
        jnp.zeros(()),
        start=None,
        noise_key=jax.random.key(0),
        decoder=decoder,
    )
    places = wave.cut_latents(lambda count: latents.reshape(-1)[:count], latents.shape[-1])
    passage = Passage(engine, stage, wave, (), Counter(0, None))
    return passage.decode(engine.programs.divided(places))[0], layout


def decoded_whole(cassr: CasSR, latents: np.ndarray) -> np.ndarray:
    vae: AutoencoderKL = merge_all(cassr.networks.graphdefs, cassr.networks.params)["vae"]
    return np.asarray(jax.jit(vae.decode)(latents[None]))[0]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> CasSR:
    return cassr_jax.load(write_random_cascade(tmp_path_factory.mktemp("cascade")), activation="identity")


def smooth(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:40, 0:40]
    return np.stack([x / 10 - 2, y / 10 - 1.5, np.ones_like(x)], -1) @ rng.normal(size=(3, 4))


def plain_on_the_left(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(40, 40, 4)) * np.where(np.arange(40) < 20, 0.1, 1)[:, None]


@pytest.mark.parametrize("kind", [smooth, plain_on_the_left])
def test_decoded_tiles_fit_whatever_is_in_them(narrow: CasSR, kind: Callable[[np.random.Generator], np.ndarray]):
    """Each by its own moments, they are 1.3 and 2.1 levels of 255 off."""
    latents = kind(np.random.default_rng(0)).astype(np.float32)
    found, layout = decoded_in_tiles(narrow, latents, 64)
    assert (len(layout.grid.tops), len(layout.grid.lefts)) == (3, 3)
    difference = found - decoded_whole(narrow, latents)
    assert np.abs(difference).mean() * 127.5 < 0.5


class Pointwise:
    """A denoiser whose prediction at a place depends on nothing but what is given there."""

    def embed_text(self, encoder_hidden_states: jax.Array) -> jax.Array:
        return encoder_hidden_states.mean((1, 2))[:, None, None, None]

    def embed_images(self, image: jax.Array) -> jax.Array:
        return image[:, ::4, ::4].mean(-1, keepdims=True)

    def embed_time(self, timesteps: jax.Array) -> jax.Array:
        return timesteps[:, None, None, None] / 1000

    def __call__(
        self, latents: jax.Array, temb: jax.Array, text: jax.Array, hints: jax.Array, fidelity: float = 1.0
    ) -> jax.Array:
        del fidelity
        hints = jnp.concatenate([hints] * (len(latents) // len(hints)))
        return jnp.sin(3 * latents * text) * hints + temb


@pytest.mark.parametrize(
    ("at_once", "guided", "sampler"),
    [(1, True, "ddim"), (1, False, "ddim"), (4, True, "ddim"), (4, False, "ddim"), (4, False, "lcm")],
)
def test_tiles_are_denoised_as_the_whole_is(narrow: CasSR, at_once: int, guided: bool, sampler: str):
    """Every tile with its own hints, the negative prompt's prediction apart from the prompt's, the plane's noise."""
    image = np.random.default_rng(0).integers(0, 256, (96, 160, 3)).astype(np.uint8)
    prompts = jnp.asarray([[[0.3, 0.5]], [[1.0, 1.4]]], jnp.float32)
    sampling = SamplingConfig(num_steps=2, sampler=sampler, guidance_scale=2.5 if guided else 1.0)
    course, denoiser, key = make_course(Schedule(), sampling), Pointwise(), jax.random.key(1)
    trajectory = course.trajectory
    engine = Engine(Programs(narrow.networks, mesh_of_tiles(1), at_once), overlap=0.25)
    layout = engine.layout(image.shape, 64)
    assert layout.count == 6
    (wave,) = waves([layout], 1, at_once)
    stage = Stage(lambda _: denoiser, sampling, course, prompts, start=None, noise_key=key)
    passage = Passage(engine, stage, wave, ([image],), Counter(0, None))
    found = passage.denoise(passage.read())

    def predict(x: jax.Array, step: jax.Array) -> jax.Array:
        hints = denoiser.embed_images(jnp.asarray(to_float(image))[None])
        temb = jnp.asarray(trajectory.timesteps)[step] / 1000
        negative, positive = (denoiser(x, temb, text, hints) for text in (0.4, 1.2))
        return 2.5 * positive - 1.5 * negative if guided else positive

    noise = jnp.asarray(normal(key, 24 * 40 * 4).reshape(1, 24, 40, 4))
    carry = begin(start_latents(trajectory, jnp.zeros_like(noise), noise))
    whole = Fresh(key_of_fresh(key)[None], *np.zeros((2, 1), np.int32))
    fresh = jnp.stack([fresh_noise(whole, jnp.int32(step), noise) for step in range(2)])
    expected = np.asarray(take_steps(predict, make_sampler(sampler), trajectory, carry, 0, 2, fresh).latents)[0]
    for tile, (top, left) in zip(np.asarray(found), layout.grid.corners, strict=False):
        np.testing.assert_allclose(tile, expected[top : top + 16, left : left + 16], atol=1e-5)


def photograph() -> np.ndarray:
    """An example at 640x480 px, float32 in 0 to 255."""
    with Image.open(EXAMPLES / "bridge.jpg") as image:
        return np.asarray(image.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC), np.float32)


def largest_step(in_tiles: np.ndarray, whole: np.ndarray, axis: int) -> float:
    """The largest step between neighbouring means of rows or columns that only the tiles have.

    Here as below, the outermost 8 pixels, the picture's own border, are left out.
    """
    return np.abs(np.diff((in_tiles - whole).mean(1 - axis), axis=0))[8:-8].max()


def excess_at_borders(in_tiles: np.ndarray, whole: np.ndarray, layout: Layout, axis: int) -> float:
    """The mean gradient where tiles overlap beside that elsewhere, in those of the whole, minus 1."""
    tiles = layout.pixels
    starts, other = (tiles.tops, tiles.lefts)[axis], (1 - axis, 2)
    shared = np.zeros(in_tiles.shape[axis] - 1, bool)
    for first, second in pairwise(starts):
        shared[second : first + tiles.tile] = True
    one, many = (np.abs(np.diff(image, axis=axis)).mean(other) for image in (whole, in_tiles))
    at_borders, elsewhere = ((many * where)[8:-8].sum() / (one * where)[8:-8].sum() for where in (shared, ~shared))
    return at_borders / elsewhere - 1


def sky(height: int, width: int) -> np.ndarray:
    """A plain gradient, float32 in 0 to 255."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    return np.stack([60 + 120 * x, 90 + 100 * y, 200 - 60 * (x + y)], -1).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["sky", "photograph"])
def test_the_embedded_decoder_shows_no_tile_border(picture: str):
    """640x480 px in 3x3 of its tiles, beside one tile: row and column means, and on a photograph the gradient where
    tiles overlap beside that where they do not. On the sky that is 4 % off, of next to nothing."""
    cassr = cassr_jax.load("tiny", activation="identity")
    rgb = photograph() if picture == "photograph" else sky(480, 640)
    vae: AutoencoderKL = merge_all(cassr.networks.graphdefs, cassr.networks.params)["vae"]
    latents = np.asarray(jax.jit(vae.encode)((rgb / 127.5 - 1)[None]))[0]
    whole = decoded_whole(cassr, latents) * 127.5
    in_tiles, layout = decoded_in_tiles(cassr, latents, 256)
    assert layout.count == 9
    for axis in (0, 1):
        assert largest_step(in_tiles * 127.5, whole, axis) < 1
        assert picture == "sky" or abs(excess_at_borders(in_tiles * 127.5, whole, layout, axis)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("picture", "activation"), [("sky", "rrdbnet"), ("photograph", "identity")])
def test_the_embedded_cascade_shows_no_tile_border(picture: str, activation: str):
    """Its results for 160x120 px in 3x3 tiles, beside those in one.

    The photograph has no first stage: what Real-ESRGAN sees beyond a picture's border changes with its tile's size,
    and by more than a seam.
    """
    rgb = photograph() if picture == "photograph" else sky(480, 640)
    lr = rgb.reshape(120, 4, 160, 4, 3).mean((1, 3)).round().astype(np.uint8)
    cassr = cassr_jax.load("tiny", activation=activation)
    in_tiles, whole = (cassr.restore(lr, tile=tile).result.astype(np.float32) for tile in (256, 640))
    layout = cassr._engine.layout(in_tiles.shape, 256)
    assert (layout.count, cassr._engine.layout(in_tiles.shape, 640).count) == (9, 1)
    for axis in (0, 1):
        assert largest_step(in_tiles, whole, axis) < 1
        assert abs(excess_at_borders(in_tiles, whole, layout, axis)) < 0.02
