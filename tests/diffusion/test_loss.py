"""The denoising loss: targets, weights and where the randomness comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.diffusion.loss import denoising_loss, min_snr_weight, sample_timesteps, training_target
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
X0, NOISE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)), jnp.float32)
T = jnp.asarray([5, 300, 900])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_is_what_the_sampler_reads(prediction):
    schedule = Schedule(prediction_type=prediction)
    target = training_target(schedule, X0, NOISE, T)
    assert target.dtype == jnp.float32
    np.testing.assert_allclose(schedule.to_x0(target, schedule.add_noise(X0, NOISE, T), T), X0, atol=2e-5)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_is_zero_at_the_target_and_grows_by_the_weight(prediction, gamma):
    schedule = Schedule(prediction_type=prediction)
    target = training_target(schedule, X0, NOISE, T)
    np.testing.assert_array_equal(denoising_loss(schedule, target, X0, NOISE, T, gamma=gamma), np.zeros(3))
    weight = np.ones(3) if gamma is None else min_snr_weight(schedule, T, gamma)
    np.testing.assert_allclose(
        denoising_loss(schedule, target + 2, X0, NOISE, T, gamma=gamma), 4 * np.asarray(weight), rtol=1e-5
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weighs_the_error_in_x0_alike_for_every_prediction(prediction):
    """An error d in x_0, expressed as an error of the network's output, costs min(SNR, gamma) d^2."""
    schedule = Schedule(prediction_type=prediction)
    t = jnp.asarray([10, 250, 500, 900])
    x_t = jnp.zeros((4, 1, 1, 1))
    slope = jax.grad(lambda output: schedule.to_x0(output, x_t, t).sum())(x_t).ravel()
    cost = min_snr_weight(schedule, t, 5.0) * (1 / slope) ** 2
    np.testing.assert_allclose(cost, jnp.minimum(schedule.snr(t), 5.0), rtol=1e-5)


def test_min_snr_weights_by_hand():
    snr = np.array([1.0, 20.0])

    class TwoLevels(Schedule):
        def snr(self, t):
            return jnp.asarray(snr, jnp.float32)[t]

    t = jnp.arange(2)
    np.testing.assert_allclose(min_snr_weight(TwoLevels(), t, 5.0), [1.0, 0.25])
    np.testing.assert_allclose(min_snr_weight(TwoLevels(prediction_type="v_prediction"), t, 5.0), [0.5, 5 / 21])
    np.testing.assert_allclose(min_snr_weight(TwoLevels(), t, None), [1.0, 1.0])


def test_timesteps_are_uniform_over_both_ends():
    t = np.asarray(sample_timesteps(jax.random.key(0), 20000, Schedule(), 19))
    counts = np.bincount(t, minlength=20)
    assert t.dtype == np.int32
    assert counts.size == 20
    assert np.all(np.abs(counts - 1000) < 150)


def test_timesteps_cover_the_whole_schedule_by_default():
    t = np.asarray(sample_timesteps(jax.random.key(0), 4000, Schedule(num_train_timesteps=7)))
    assert set(t) == set(range(7))


@pytest.mark.parametrize("maximum", [-1, 1000])
def test_timesteps_outside_the_schedule_are_refused(maximum):
    with pytest.raises(InputError, match=f"is {maximum}, expected 0 to 999"):
        sample_timesteps(jax.random.key(0), 4, Schedule(), maximum)
