"""Classifier-free guidance."""

import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.diffusion.guidance import guide
from cassr_jax.diffusion.schedule import Schedule


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.5, jnp.float32(5.5)])
def test_extrapolates_from_the_negative_to_the_positive_prediction(scale):
    negative, positive = jnp.full((2, 1, 1, 1), -1.0), jnp.full((2, 1, 1, 1), 3.0)
    np.testing.assert_allclose(guide(negative, positive, scale), np.full((2, 1, 1, 1), -1 + 4 * scale), rtol=1e-6)


def test_half_precision_predictions_are_guided_in_float32():
    near = (jnp.full((1, 1, 1, 1), value, jnp.bfloat16) for value in (1.0, 1.0078125))
    result = guide(*near, 5.5)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, 1 + 5.5 * 0.0078125)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_guiding_what_the_network_predicts_guides_the_picture(prediction):
    schedule, t = Schedule(prediction_type=prediction), jnp.asarray([600])
    x_t, negative, positive = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 2, 2, 4)), jnp.float32)
    guided_output = schedule.to_x0(guide(negative, positive, 5.5), x_t, t)
    guided_picture = guide(schedule.to_x0(negative, x_t, t), schedule.to_x0(positive, x_t, t), 5.5)
    np.testing.assert_allclose(guided_output, guided_picture, rtol=1e-5, atol=1e-4)
