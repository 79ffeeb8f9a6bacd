"""Fresh noise in every step: it depends on the seed, the step and the place in the picture alone."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cassr_jax
from cassr_jax.cascade import CasSR, Restoration, mesh_of_tiles
from cassr_jax.config import SamplingConfig
from cassr_jax.engine.engine import Engine, normal
from cassr_jax.engine.programs import Programs, State
from cassr_jax.sampling import Fresh, fresh_noise, key_of_fresh
from cassr_jax.seeds import seed_key
from tests.random_cascade import TILE, write_random_cascade

SIZES = ((TILE // 4, TILE // 4), (9, 40), (30, 40))  # of one tile and of several of the same size
LATENTS = jnp.zeros((1, 6, 5, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sampling = SamplingConfig(sampler="lcm", num_steps=3, guidance_scale=1.0)
    changes = {"activation": "identity", "sampling": sampling, "color_fix": "none"}
    return write_random_cascade(tmp_path_factory.mktemp("cascade"), **changes)


def loaded(folder: Path, devices: int) -> CasSR:
    """The cascade with two tiles in a call, as on an accelerator."""
    cassr = cassr_jax.load(folder, devices=devices)
    cassr._fill = 8 * devices
    cassr._engine = Engine(Programs(cassr.networks, mesh_of_tiles(devices), 2), overlap=cassr.config.tile_overlap)
    return cassr


@pytest.fixture(scope="module")
def one(folder: Path) -> CasSR:
    return loaded(folder, 1)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def alone(one: CasSR, pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [one.restore(picture).result for picture in pictures]


def results(cassr: CasSR, pictures: list[np.ndarray]) -> list[np.ndarray]:
    found = list(cassr.restore_many(pictures))
    return [each.result for each in found if isinstance(each, Restoration)]


def drawn(seed: int, step: int = 0, top: int = 0, left: int = 0) -> np.ndarray:
    fresh = Fresh(key_of_fresh(seed_key(seed))[None], jnp.asarray([top]), jnp.asarray([left]))
    return np.asarray(jax.jit(fresh_noise)(fresh, jnp.int32(step), LATENTS))[0]


def test_tiles_agree_where_they_overlap():
    np.testing.assert_array_equal(drawn(3)[2:, 1:], drawn(3, top=2, left=1)[:-2, :-1])
    row, column = drawn(3, top=1), drawn(3, left=1)
    assert np.abs(row[:5, :5] - column[:5, :5]).min() > 0, "rows and columns are not exchanged"


def test_every_seed_and_step_has_noise_of_its_own():
    found = [drawn(3), drawn(4), drawn(3, step=1), normal(seed_key(3), LATENTS.size).reshape(LATENTS.shape[1:])]
    for i, each in enumerate(found):
        for other in found[:i]:
            assert not np.intersect1d(each, other).size


def test_fresh_noise_is_unit_normal_and_uncorrelated():
    keys = jax.random.split(jax.random.key(0), 64)
    zeros = jnp.zeros(64, jnp.int32)
    noise = np.asarray(fresh_noise(Fresh(keys, zeros, zeros), jnp.int32(0), jnp.zeros((64, 16, 16, 4))))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    for axis in range(4):
        assert abs((noise * np.roll(noise, 1, axis)).mean()) < 0.02


def test_company_and_place_change_no_pixel(one: CasSR, pictures: list[np.ndarray], alone: list[np.ndarray]):
    order = (2, 0, 2, 1)
    for number, result in zip(order, results(one, [pictures[n] for n in order]), strict=True):
        np.testing.assert_array_equal(result, alone[number])


def farthest(found: np.ndarray, expected: np.ndarray) -> int:
    """In levels of 255."""
    return int(np.abs(found.astype(int) - expected).max())


def test_eight_devices_make_the_pictures_of_one(folder: Path, pictures: list[np.ndarray], alone: list[np.ndarray]):
    for found, expected in zip(results(loaded(folder, 8), pictures), alone, strict=True):
        assert farthest(found, expected) <= 1
        assert np.mean(found != expected) < 0.01


@pytest.mark.slow
def test_devices_that_share_rows_make_the_picture_of_a_tile(folder: Path, pictures, alone):
    cassr = cassr_jax.load(folder, devices=2, split="spatial")
    assert farthest(cassr.restore(pictures[0]).result, alone[0]) <= 1


def test_another_seed_makes_another_picture_and_compiles_nothing(one: CasSR, pictures, alone):
    before = one._engine.programs.count()
    other = one.restore(pictures[2], seed=7).result
    assert one._engine.programs.count() == before
    assert np.abs(other.astype(int) - alone[2]).mean() > 1
    np.testing.assert_array_equal(one.restore(pictures[2], seed=7).result, other)


@pytest.mark.parametrize(("sampler", "noisy"), [("ddim", False), ("unipc", False), ("lcm", True), ("euler_a", True)])
def test_only_a_noisy_sampler_takes_keys(one: CasSR, pictures, sampler: str, noisy: bool, monkeypatch):
    states: list[State] = []

    class Enough(Exception):
        pass

    def seen(self: Programs, make: Any, run: Any, state: State, *arguments: Any) -> State:
        states.append(state)
        raise Enough

    monkeypatch.setattr(Programs, "denoise", seen)
    with pytest.raises(Enough):
        one.restore(pictures[0], sampler=sampler)
    assert [state.fresh is not None for state in states] == [noisy]
