"""Two whole steps of each stage as `CasSR.restore` runs them, against torch: start, guidance, DDIM, colour fix."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import cassr_jax
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.restoration import Restoration
from cassr_jax.seeds import seed_key
from tests.random_cascade import TILE, write_random_cascade

GOLDEN = Path(__file__).parent / "golden" / "cascade.npz"
SEED, STEPS, GUIDANCE_SCALE = 5, 2, 2.5
SIZE = (40, 48)  # of the output
CASES = {"scedit": "lq", "controlnet": "reference"}  # the first stage, and what the second starts from


def picture() -> np.ndarray:
    """A smooth one of middle contrast, that little of the result is clipped."""
    y, x, channel = np.mgrid[0:10, 0:12, 0:3]
    wave = 128 + 50 * np.sin(x / 3 + channel) * np.cos(y / 2 - channel)
    return (wave + np.random.default_rng(0).normal(0, 8, wave.shape)).round().astype(np.uint8)


def noises() -> np.ndarray:
    """The noise of both stages, by the rule that a seed follows: (2, 1, h, w, 4)."""
    keys = [jax.random.fold_in(seed_key(SEED), stage) for stage in (0, 1)]
    return np.stack([jax.random.normal(key, (1, TILE // 4, TILE // 4, 4)) for key in keys])


def write_cascade(folder: Path, *, trained: bool = True) -> Path:
    schedule = Schedule(timestep_spacing="trailing")
    return write_random_cascade(folder, trained=trained, schedule=schedule, color_fix="wavelet")


def restored(folder: Path, kind: str) -> Restoration:
    cassr = cassr_jax.load(folder, activation=kind)
    options = {"steps": STEPS, "guidance_scale": GUIDANCE_SCALE, "sampler": "ddim", "start": CASES[kind]}
    return cassr.restore(picture(), seed=SEED, **options)


def assert_rounded(actual: np.ndarray, expected: np.ndarray) -> None:
    """8 bit of what is expected before rounding, whose structure is far above it and hardly clipped."""
    assert np.mean((expected < 0) | (expected > 255)) < 0.05
    assert np.std(expected) > 5
    np.testing.assert_allclose(actual, np.clip(expected, 0, 255), atol=0.51)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cascade(tmp_path_factory.mktemp("untrained"), trained=False)


@pytest.mark.parametrize("kind", CASES)
def test_both_stages_equal_the_recorded(folder, kind):
    with np.load(GOLDEN) as golden:
        restoration = restored(folder, kind)
        np.testing.assert_array_equal(restoration.bicubic, golden["bicubic"])
        np.testing.assert_allclose(noises(), golden["noises"], atol=1e-6)
        assert_rounded(restoration.reference, golden[f"{kind}/reference"])
        assert_rounded(restoration.result, golden[f"{kind}/result"])
        assert json.loads(str(golden["settings"])) == [SEED, STEPS, GUIDANCE_SCALE, *SIZE]


def test_untrained_stages_equal_recorded_stable_diffusion(untrained):
    """diffusers' U-Net and nothing beside it, in both stages."""
    restoration = restored(untrained, "scedit")
    with np.load(GOLDEN) as golden:
        assert_rounded(restoration.reference, golden["untrained/reference"])
        assert_rounded(restoration.result, golden["untrained/result"])


@pytest.mark.reference
def test_untrained_stages_equal_stable_diffusion(untrained):
    pytest.importorskip("torch")
    from tests import torch_cascade

    restoration = restored(untrained, "scedit")
    sampling = torch_cascade.Sampling(STEPS, GUIDANCE_SCALE, SIZE, side=TILE)
    expected = torch_cascade.run_stable_diffusion(untrained, restoration.bicubic, noises(), sampling)
    assert_rounded(restoration.reference, expected[0])
    assert_rounded(restoration.result, expected[1])


@pytest.mark.reference
@pytest.mark.parametrize("kind", CASES)
def test_both_stages_equal_torch(folder, kind):
    pytest.importorskip("torch")
    from tests import torch_cascade

    restoration = restored(folder, kind)
    sampling = torch_cascade.Sampling(STEPS, GUIDANCE_SCALE, SIZE, side=TILE)
    reference, result = torch_cascade.run(folder, kind, restoration.bicubic, noises(), CASES[kind], sampling)
    assert_rounded(restoration.reference, reference)
    assert_rounded(restoration.result, result)
