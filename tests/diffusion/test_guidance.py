"""Classifier-free guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.diffusion.guidance import guidance_batch, guide, guided, is_guided
from cassr_jax.diffusion.schedule import Schedule

NEGATIVE, POSITIVE = np.full((2, 1, 1, 1), -1.0, np.float32), np.full((2, 1, 1, 1), 3.0, np.float32)


def network(condition):
    def denoise(latents, step):
        assert latents.shape == condition.shape
        return latents * condition + step

    return denoise


@pytest.mark.parametrize("scale", [0.0, 1.0, 1, 5.5])
def test_is_the_extrapolation_from_negative_to_positive(scale):
    latents = np.random.default_rng(0).normal(size=(2, 1, 1, 1)).astype(np.float32)
    denoise = guided(network(guidance_batch(NEGATIVE, POSITIVE, scale)), scale)
    np.testing.assert_allclose(denoise(latents, 2), latents * (-1 + scale * 4) + 2, rtol=1e-5)


def test_halves_lie_negative_first():
    np.testing.assert_array_equal(guidance_batch(NEGATIVE, POSITIVE, 2.0)[:, 0, 0, 0], [-1, -1, 3, 3])


def test_scale_one_costs_no_second_half():
    assert not is_guided(1.0)
    assert guidance_batch(NEGATIVE, POSITIVE, 1.0) is POSITIVE
    denoise = network(POSITIVE)
    assert guided(denoise, 1.0) is denoise


def test_a_traced_scale_serves_every_value_with_one_compilation():
    traces = []

    @jax.jit
    def run(latents, scale):
        traces.append(scale)
        return guided(network(guidance_batch(NEGATIVE, POSITIVE, scale)), scale)(latents, 0)

    latents = jnp.ones((2, 1, 1, 1))
    np.testing.assert_allclose(run(latents, jnp.float32(1.0)), POSITIVE)
    np.testing.assert_allclose(run(latents, jnp.float32(2.0)), 2 * POSITIVE - NEGATIVE)
    assert len(traces) == 1


def test_half_precision_predictions_are_guided_in_float32():
    near = jnp.full((1, 1), 1.0, jnp.bfloat16), jnp.full((1, 1), 1.0078125, jnp.bfloat16)
    result = guide(*near, 5.5)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, 1 + 5.5 * 0.0078125)


def test_guiding_the_velocity_guides_the_noise():
    schedule, t = Schedule(prediction_type="v_prediction"), jnp.asarray([600])
    x_t, v_negative, v_positive = np.random.default_rng(0).normal(size=(3, 1, 2, 2, 4)).astype(np.float32)
    of_velocity = schedule.to_epsilon(guide(v_negative, v_positive, 5.5), x_t, t)
    of_noise = guide(schedule.to_epsilon(v_negative, x_t, t), schedule.to_epsilon(v_positive, x_t, t), 5.5)
    np.testing.assert_allclose(of_velocity, of_noise, atol=1e-5)
