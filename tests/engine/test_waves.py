"""Seats: a wave has one of a few sizes, and each of its tiles one place."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cassr_jax.cascade import seating
from cassr_jax.control import control_scheme
from cassr_jax.engine.layout import layout, tile_sizes
from cassr_jax.engine.waves import Seats, in_calls, waves
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.denoisers import SCEditDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import Networks, merge_all
from cassr_jax.second_stage import denoiser_maker
from cassr_jax.weights.configs import AttachedConfig

WAVES = {"count": st.integers(1, 700), "devices": st.integers(1, 9), "at_once": st.integers(1, 5)}


@given(**WAVES)
def test_every_tile_has_a_place_and_one_call(count: int, devices: int, at_once: int):
    seats = Seats(count, devices, at_once)
    numbers = [number for call in range(seats.calls) for number in seats.of_call(call)]
    assert sorted(number for number in numbers if number is not None) == list(range(count))
    placed = seats.placed(1 + np.arange(count)).reshape(devices, seats.capacity)
    for call in range(seats.calls):
        slots = placed[:, call * at_once : (call + 1) * at_once].ravel().tolist()
        assert slots == [0 if number is None else 1 + number for number in seats.of_call(call)]


@given(**WAVES)
def test_a_wave_has_places_for_its_tiles_and_whole_calls(count: int, devices: int, at_once: int):
    seats = Seats(count, devices, at_once)
    assert seats.capacity * devices >= count
    assert seats.capacity % at_once == 0
    assert seats.calls * at_once <= seats.capacity


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("platform", "tiles", "capacity", "keeps_hints"),
    [
        ("cuda", 1, 16, True),
        ("cuda", 16, 16, True),
        ("cuda", 17, 64, False),
        ("cuda", 64, 64, False),
        ("cuda", 65, 256, False),
        ("cpu", 1, 16, True),
        ("cpu", 16, 16, True),
        ("cpu", 17, 64, False),
    ],
)
def test_the_sizes_of_a_wave(platform: str, devices: int, tiles: int, capacity: int, keeps_hints: bool):
    seats = Seats(tiles * devices, devices, seating(platform, devices, 4)[0])
    assert (seats.capacity, seats.keeps_hints) == (capacity, keeps_hints)


def test_a_wave_has_room_for_a_whole_call():
    """However many tiles a call takes: 40 pictures of one tile are two calls of 20 on one device, in two waves."""
    one = layout(64, 64, tile_sizes(64, 8, 4, 0.25), 8, 0.25)
    found = waves([one] * 40, 1, 20)
    assert [(wave.seats.count, wave.seats.calls, wave.seats.capacity) for wave in found] == [(20, 1, 20)] * 2
    assert all(wave.seats.keeps_hints for wave in found)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 8))
def test_calls_are_full_but_for_the_last(numbers: list[int], width: int):
    calls = in_calls(numbers, width)
    assert [number for call in calls for number in call if number is not None] == numbers
    assert all(len(call) == width for call in calls)
    assert sum(number is None for call in calls for number in call) == -len(numbers) % width


@cache
def stable_diffusion() -> Networks:
    networks, unet = Networks(), UNetConfig()
    kinds = {
        "vae": VAEConfig(), "unet": unet, "scedit": AttachedConfig(unet, SCEditConfig()),
        "controlnet": AttachedConfig(unet, ControlNetConfig()), "multiple_attention": unet,
    }  # fmt: skip
    for kind, config in kinds.items():
        networks = networks.with_shapes(kind, config, jnp.bfloat16)
    return networks


def denoiser_of_scedit(modules):
    return SCEditDenoiser(modules["unet"], modules["scedit"])


@pytest.mark.parametrize(
    ("make", "images"),
    [(denoiser_of_scedit, 1), (denoiser_maker(control_scheme("cassr"), GuidanceSwitches()), 2)],
    ids=["scedit", "second stage"],
)
def test_a_large_picture_needs_no_more_of_an_accelerator(make, images: int):
    """On Stable Diffusion 1.5, 4096x4096 px take at most 1.1 times the memory of 1024x1024 px, without activations."""
    networks = stable_diffusion()
    weights = nbytes(networks.params)
    pixels = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.uint8)
    latents = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)

    def hints(params, *pixels):
        return make(merge_all(networks.graphdefs, params)).embed_images(*(x.astype(jnp.float32) for x in pixels))

    embedded = nbytes(jax.eval_shape(hints, networks.params, *[pixels] * images))
    sizes = tile_sizes(512, 64, 8, 0.25)
    at_once, _ = seating("cuda", 1, 4)
    needed = []
    for side, tiles in ((1024, 9), (4096, 121)):
        assert layout(side, side, sizes, 64, 0.25).count == tiles
        seats = Seats(tiles, 1, at_once)
        kept = embedded if seats.keeps_hints else images * nbytes(pixels)
        needed.append(weights + seats.capacity * (kept + 4 * nbytes(latents)))  # a carry, an output and the noise
    assert needed[1] <= 1.1 * needed[0]


def nbytes(shapes) -> int:
    return sum(shape.size * shape.dtype.itemsize for shape in jax.tree.leaves(shapes))
