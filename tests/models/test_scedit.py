"""SCEdit against its published program, and what the tuners do before training."""

import json
from math import erf
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.models.parameters import abstract, initialise, merge
from cassr_jax.models.scedit import CSCTuner, SCEditConfig, SCTuner
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.convert import from_torch, torch_name
from tests import narrow, narrow_denoisers

GOLDEN = Path(__file__).parents[1] / "golden" / "scepter.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def test_hints_edited_skips_and_prediction_equal_the_published_programs(golden):
    expected = {name: value for name, value in golden.items() if name not in ("shapes", "versions")}
    errors = narrow.errors(narrow_denoisers.run_as_scepter(), expected)
    assert max(errors.values()) <= 1e-5, errors


def test_weights_have_the_published_names_and_shapes(golden):
    unet, tuner = narrow_denoisers.SCEPTER_UNET, narrow_denoisers.SCEPTER_TUNER
    _, shapes = abstract(lambda rngs: CSCTuner(unet, tuner, rngs=rngs))
    published = json.loads(str(golden["shapes"]))
    from_torch({key: np.empty(shape, np.float32) for key, shape in published.items()}, shapes)  # raises otherwise


def test_at_stable_diffusion_15_it_is_as_published():
    """Hint encoder 3-16-16-32-32-96-96-256; one dense hint and one tuner a skip, tuner 0 the deepest's."""
    _, shapes = abstract(lambda rngs: CSCTuner(UNetConfig(), SCEditConfig(), rngs=rngs))
    weights = {torch_name(name): value.shape for name, value in shapes.items() if not name.endswith("bias")}
    encoder = [weights[f"pre_hint_blocks.{i}.weight"][2:] for i in range(0, 14, 2)]
    assert encoder == [(3, 16), (16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256)]
    skips = [320] * 4 + [640] * 3 + [1280] * 5
    assert [weights[f"dense_hint_blocks.{i}.1.weight"][2:] for i in range(12)] == list(
        zip([256, *skips], skips, strict=False)
    )
    assert [weights[f"lsc_tuner_blocks.{i}.tuner_op.ln1.weight"] for i in range(12)] == [(c, c) for c in skips[::-1]]
    assert len(weights) == 7 + 12 + 2 * 12


def test_untrained_it_leaves_every_skip_as_it_is():
    graphdef, params = initialise(
        lambda rngs: CSCTuner(narrow.SMALL, narrow.SCEDIT, rngs=rngs), jax.random.key(0, impl="rbg")
    )
    skips = narrow.skip_arrays(narrow.SMALL, seed=1)

    @jax.jit
    def run(params, images, skips):
        tuner = merge(graphdef, params)
        return tuner(skips, tuner.hints(images))

    for before, after in zip(skips, run(params, narrow.inputs().images, skips), strict=True):
        np.testing.assert_array_equal(before, after)


def test_control_scale_scales_the_change():
    graphdef, params = narrow.random_network(lambda rngs: SCTuner(16, 1.0, dtype=np.float32, rngs=rngs))
    tuner = merge(graphdef, params)
    skip, hint = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3, 5, 16)), jnp.float32)
    np.testing.assert_array_equal(tuner(skip, hint, 0.0), skip)
    whole, half = (np.asarray(tuner(skip, hint, scale)) - skip for scale in (1.0, 0.5))
    np.testing.assert_allclose(half, whole / 2, atol=1e-5)
    assert np.abs(whole).max() > 1


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_sc_tuner_without_a_hint(ratio):
    """skip + W2 GELU(W1 skip), in float64 by hand."""
    graphdef, params = narrow.random_network(lambda rngs: SCTuner(16, ratio, dtype=np.float32, rngs=rngs))
    skip = np.random.default_rng(0).normal(size=(2, 3, 5, 16)).astype(np.float32)
    w1, b1, w2, b2 = (
        np.asarray(params[f"tuner_op.{layer}.{part}"], np.float64)
        for layer in ("ln1", "ln2")
        for part in ("kernel", "bias")
    )
    assert w1.shape == (16, 16 * ratio)
    x = skip @ w1 + b1
    expected = skip + (x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))) @ w2 + b2
    assert narrow.relative_l2(merge(graphdef, params)(jnp.asarray(skip)), expected) <= 1e-6
