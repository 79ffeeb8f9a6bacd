"""Samplers with fresh noise in every step: against torch diffusers where they have settings of their own, and noise."""

import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion.samplers import LCM, SAMPLERS, TCD, make_sampler
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.diffusion.trajectory import NoisyCoefficients, start_latents
from cassr_jax.errors import InputError
from cassr_jax.sampling import make_course
from tests.diffusion.test_samplers import TOLERANCE, TORCH_ARRAY_WARNING, complete, relative_l2
from tests.diffusion.test_samplers import followed as followed_by_name

NOISY = [name for name in SAMPLERS if make_sampler(name).noisy]
PREDICTIONS = ("epsilon", "v_prediction")


def followed(sampler, trajectory, latents):
    """The latents after every step over the fake network."""
    return followed_by_name(next(name for name, each in SAMPLERS.items() if each is type(sampler)), trajectory, latents)


def first_of(strength: float) -> int | None:
    """The first timestep of a strength, as the cascade chooses it."""
    return None if strength == 1 else round(strength * 999)


@pytest.mark.reference
@TORCH_ARRAY_WARNING
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_eta_of_tcd_is_diffusers(prediction, eta):
    torch_schedulers = reference()
    latents = torch_schedulers.start()
    for steps in (1, 4, 7, 50):
        scheduler = torch_schedulers.scheduler("tcd", "leading", prediction)
        expected = torch_schedulers.trajectory(scheduler, steps, latents, eta=eta)
        trajectory = TCD(eta).trajectory(Schedule(prediction_type=prediction), steps)
        for step, (ours, theirs) in enumerate(zip(followed(TCD(), trajectory, latents), expected, strict=True)):
            assert relative_l2(ours, theirs) <= TOLERANCE, f"{steps} steps, step {step}"


@pytest.mark.reference
@TORCH_ARRAY_WARNING
@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_strength_of_distilled_samplers_is_diffusers(name, strength):
    torch_schedulers = reference()
    latents, sampler = torch_schedulers.start(), make_sampler(name)
    for steps in (1, 3, 4, 10):
        scheduler = torch_schedulers.scheduler(name, "leading", "epsilon")
        scheduler.set_timesteps(steps, strength=strength)
        trajectory = sampler.trajectory(Schedule(), steps, first_of(strength))
        np.testing.assert_array_equal(trajectory.timesteps, scheduler.timesteps)
        expected = torch_schedulers.as_planned(scheduler, latents)
        for step, (ours, theirs) in enumerate(zip(followed(sampler, trajectory, latents), expected, strict=True)):
            assert relative_l2(ours, theirs) <= TOLERANCE, f"{steps} steps, step {step}"


@pytest.mark.reference
@TORCH_ARRAY_WARNING
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ["euler_a", "dpmpp_2m_sde"])
def test_partial_runs_equal_diffusers_at_the_same_timesteps(name, spacing, prediction):
    torch_schedulers = reference()
    import torch

    latents, sampler = torch_schedulers.start(), make_sampler(name)
    schedule = Schedule(timestep_spacing=spacing, prediction_type=prediction)
    trajectory = sampler.trajectory(schedule, 6, 300)
    scheduler = torch_schedulers.scheduler(name, spacing, prediction)
    scheduler.set_timesteps(6)
    sigmas = np.interp(trajectory.timesteps, np.arange(1000), schedule.sigmas)
    scheduler.timesteps = torch.asarray(trajectory.timesteps if name == "euler_a" else trajectory.timesteps.astype(int))
    scheduler.sigmas = torch.asarray(np.append(sigmas, 0).astype(np.float32))
    expected = torch_schedulers.as_planned(scheduler, latents)
    for step, (ours, theirs) in enumerate(zip(followed(sampler, trajectory, latents), expected, strict=True)):
        assert relative_l2(ours, theirs) <= TOLERANCE, f"step {step}"


def reference():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.diffusion import torch_schedulers

    return torch_schedulers


@pytest.mark.parametrize("first", [None, 500])
@pytest.mark.parametrize("sampler", [*map(make_sampler, NOISY), TCD(1.0)])
def test_fresh_noise_makes_up_what_a_step_takes_away(sampler, first):
    """After a step from x_0 = 0, the variance of the latents is that of the next timestep."""
    trajectory = sampler.trajectory(Schedule(), 5, first)
    assert isinstance(trajectory.coefficients, NoisyCoefficients)
    kept = np.asarray(trajectory.coefficients.mean.keep) * trajectory.noise
    variance = kept**2 + np.asarray(trajectory.coefficients.fresh) ** 2
    np.testing.assert_allclose(variance[:-1], np.asarray(trajectory.noise)[1:] ** 2, rtol=1e-5)


@pytest.mark.parametrize("name", NOISY)
def test_the_last_step_adds_no_noise(name):
    coefficients = make_sampler(name).trajectory(Schedule(), 5).coefficients
    assert isinstance(coefficients, NoisyCoefficients)
    assert coefficients.fresh[-1] == 0
    assert np.all(np.asarray(coefficients.fresh)[:-1] > 0)


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_distilled_samplers_end_at_what_the_network_knows(name):
    """`tcd` at the noise of timestep 0, and `lcm` at x_0 but for its boundary condition."""
    x0, noise = jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, 3, 3, 4)), jnp.float32)
    trajectory = make_sampler(name).trajectory(Schedule(prediction_type="sample"), 4)
    result = complete(lambda x, i: x0, make_sampler(name), trajectory, start_latents(trajectory, x0, noise))
    distance = float(jnp.abs(result - x0).max())
    first_level = float(np.sqrt(1 - Schedule().alphas_cumprod[0]))
    assert distance < (4 * first_level if name == "tcd" else 1e-5)
    assert distance > (first_level / 4 if name == "tcd" else 0)


def test_tcd_without_noise_takes_none():
    assert not TCD(0.0).noisy
    assert TCD().noisy
    coefficients = TCD(0.0).trajectory(Schedule(), 4).coefficients
    assert isinstance(coefficients, NoisyCoefficients)
    np.testing.assert_array_equal(coefficients.fresh, np.zeros(4))


def test_first_order_of_the_sde_is_ancestral():
    trailing = Schedule(timestep_spacing="trailing")  # where both have the same timesteps
    ancestral, sde = (sampler.trajectory(trailing, 2) for sampler in map(make_sampler, ("euler_a", "dpmpp_2m_sde")))
    np.testing.assert_array_equal(ancestral.timesteps, sde.timesteps)
    for ours, theirs in zip(ancestral.coefficients, sde.coefficients, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(
    ("schedule", "steps", "first", "message"),
    [
        (Schedule(), 0, None, "the number of sampling steps is 0, expected at least 1"),
        (
            Schedule(),
            51,
            None,
            "51 sampling steps do not fit into the 50 timesteps up to 999 .* at most 50, or a higher",
        ),
        (Schedule(), 5, 60, "5 sampling steps do not fit into the 3 timesteps up to 60 .* at most 3, or a higher"),
        (Schedule(), 1, 18, "1 sampling steps do not fit into the 0 timesteps up to 18 .* expected a higher first"),
        (Schedule(), 1, 1000, "the first timestep is 1000, expected 0 to 999"),
        (Schedule(num_train_timesteps=49), 1, None, "num_train_timesteps is 49, expected at least 50"),
    ],
)
def test_what_no_model_is_distilled_for_is_refused(schedule, steps, first, message):
    with pytest.raises(InputError, match=message):
        LCM().trajectory(schedule, steps, first)
    with pytest.raises(InputError, match=message):
        TCD().trajectory(schedule, steps, first)


def test_only_tcd_takes_eta():
    assert make_sampler("tcd", 0.5) == TCD(0.5)
    assert make_sampler("tcd") == TCD(0.3)
    with pytest.raises(InputError, match=r"eta is 0\.5 for the sampler ddim, expected None, or the sampler tcd"):
        make_course(Schedule(), SamplingConfig(eta=0.5))
