"""Samplers against torch diffusers (recorded always, live where it is installed) and against what must hold."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.diffusion.samplers import (
    DDIM,
    SAMPLERS,
    make_sampler,
)
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.diffusion.trajectory import Sampler, Trajectory, begin, start_latents
from cassr_jax.errors import InputError
from tests.diffusion.fake_network import fake_output
from tests.diffusion.steps import Denoise, take_steps

GOLDEN = Path(__file__).parents[1] / "golden" / "diffusion.npz"
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
NOT_OFFERED = ("euler_a", "sample")  # by diffusers
DISTILLED = ("lcm", "tcd")  # whose timesteps no spacing changes
SPACED = [(name, spacing) for name in SAMPLERS for spacing in (SPACINGS[:1] if name in DISTILLED else SPACINGS)]
TOLERANCE = 1e-5
# diffusers 0.39 hands torch tensors to np.array, which NumPy 2 remarks upon.
TORCH_ARRAY_WARNING = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def relative_l2(actual, expected) -> float:
    difference = np.asarray(actual, np.float64) - np.asarray(expected, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def fresh(steps: int, shape: tuple[int, ...]) -> np.ndarray:
    """Fresh noise for every step; the last pictures of a batch have the noise of the last pictures of two."""
    return np.random.default_rng(1).normal(size=(steps, 2, *shape[1:])).astype(np.float32)[:, -shape[0] :]


def complete(denoise: Denoise, sampler: Sampler, trajectory: Trajectory, latents: jax.Array) -> jax.Array:
    """The result of all steps."""
    steps = len(trajectory.timesteps)
    noise = jnp.asarray(fresh(steps, latents.shape))
    return take_steps(denoise, sampler, trajectory, begin(latents), 0, steps, noise).latents


@cache
def stepper(name: str):
    """Some steps of a sampler over the fake network; the trajectory is an argument: one program a length."""

    def run(trajectory, carry, start, stop, noise):
        denoise = lambda x, i: fake_output(x, jnp.asarray(trajectory.timesteps)[i], jnp)  # noqa: E731
        return take_steps(denoise, make_sampler(name), trajectory, carry, start, stop, noise)

    return jax.jit(run)


def trajectory(name: str, schedule: Schedule, steps: int, latents: np.ndarray) -> np.ndarray:
    return followed(name, make_sampler(name).trajectory(schedule, steps), latents)


def followed(name: str, trajectory: Trajectory, latents: np.ndarray) -> np.ndarray:
    """The latents after every step, with the recorded noise."""
    steps = len(trajectory.timesteps)
    carry, result, noise = begin(jnp.asarray(latents)), [], fresh(steps, latents.shape)
    for i in range(steps):
        carry = stepper(name)(trajectory, carry, i, i + 1, noise)
        result.append(np.asarray(carry.latents))
    return np.stack(result)


@partial(jax.jit, static_argnums=(0, 1, 2, 4))
def whole_run(name: str, schedule: Schedule, steps: int, latents: jax.Array, first_timestep: int | None = None):
    sampler = make_sampler(name)
    trajectory = sampler.trajectory(schedule, steps, first_timestep)
    denoise = lambda x, i: fake_output(x, jnp.asarray(trajectory.timesteps)[i], jnp)  # noqa: E731
    return complete(denoise, sampler, trajectory, latents)


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 50])
@pytest.mark.parametrize(("name", "spacing"), SPACED)
def test_timesteps_equal_the_recorded_ones(golden, name, spacing, steps):
    trajectory = make_sampler(name).trajectory(Schedule(timestep_spacing=spacing), steps)
    np.testing.assert_array_equal(
        trajectory.timesteps, golden[f"timesteps/{name}/{spacing}/{steps}"].astype(np.float32)
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "spacing"), SPACED)
def test_trajectory_equals_the_recorded_one(golden, name, spacing, prediction):
    schedule = Schedule(timestep_spacing=spacing, prediction_type=prediction)
    expected = golden[f"trajectory/{name}/{spacing}/{prediction}"]
    actual = trajectory(name, schedule, len(expected), golden["latents"])
    for step, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert relative_l2(ours, theirs) <= TOLERANCE, f"step {step}"


@pytest.mark.reference
@TORCH_ARRAY_WARNING
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 50])
@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectory_equals_diffusers_live(name, steps):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.diffusion import torch_schedulers

    latents = torch_schedulers.start()
    for spacing in torch_schedulers.spacings(name):
        for prediction in PREDICTIONS:
            if (name, prediction) == NOT_OFFERED:
                continue
            scheduler = torch_schedulers.scheduler(name, spacing, prediction)
            expected = torch_schedulers.trajectory(scheduler, steps, latents)
            schedule = Schedule(timestep_spacing=spacing, prediction_type=prediction)
            actual = trajectory(name, schedule, steps, latents)
            for step, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
                assert relative_l2(ours, theirs) <= TOLERANCE, f"{spacing}, {prediction}, step {step}"


@pytest.mark.reference
@TORCH_ARRAY_WARNING
@pytest.mark.parametrize("to_one", [False, True])
def test_where_ddim_ends_is_as_in_diffusers(to_one):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.diffusion import torch_schedulers

    scheduler = torch_schedulers.scheduler("ddim", "leading", "epsilon", set_alpha_to_one=to_one)
    expected = torch_schedulers.trajectory(scheduler, 4, torch_schedulers.start())
    schedule = Schedule.from_diffusers(scheduler.config)
    assert schedule == Schedule(set_alpha_to_one=to_one)
    actual = trajectory("ddim", schedule, 4, torch_schedulers.start())
    assert relative_l2(actual[-1], expected[-1]) <= TOLERANCE


@pytest.mark.reference
@TORCH_ARRAY_WARNING
@pytest.mark.parametrize(
    ("name", "prediction"),
    [(name, prediction) for name in SAMPLERS for prediction in PREDICTIONS[1:] if (name, prediction) != NOT_OFFERED],
)
def test_a_start_at_pure_noise_equals_diffusers_live(name, prediction):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.diffusion import torch_schedulers

    scheduler = torch_schedulers.scheduler(name, "trailing", prediction, zero_snr=True)
    schedule = Schedule.from_diffusers({"_class_name": type(scheduler).__name__, **scheduler.config})
    assert schedule.rescale_betas_zero_snr
    # Euler's latents are 4096 times ours there, and float32 keeps no more of them.
    tolerance = 4096 * np.finfo(np.float32).eps if name in ("euler", "euler_a") else TOLERANCE
    for steps in (1, 2, 10):
        expected = torch_schedulers.trajectory(scheduler, steps, torch_schedulers.start())
        actual = trajectory(name, schedule, steps, torch_schedulers.start())
        for step, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
            assert relative_l2(ours, theirs) <= tolerance, f"{steps} steps, step {step}"


@pytest.mark.reference
@TORCH_ARRAY_WARNING
@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_equal_diffusers_live_at_every_usual_number_of_steps(name):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.diffusion import torch_schedulers

    for spacing in torch_schedulers.spacings(name):
        for steps in range(1, 51 if name in DISTILLED else 121):
            theirs = torch_schedulers.timesteps(torch_schedulers.scheduler(name, spacing, "epsilon"), steps)
            ours = make_sampler(name).trajectory(Schedule(timestep_spacing=spacing), steps).timesteps
            # At 61, 103, ... trailing steps a rounding error makes diffusers overrun to a timestep -1.
            assert len(theirs) == steps or (spacing == "trailing" and theirs[-1] == -1)
            np.testing.assert_array_equal(ours, theirs[:steps].astype(np.float32))


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_loop_equals_step_by_step(golden, name):
    whole = whole_run(name, Schedule(), 20, golden["latents"])
    # XLA may fuse the two differently, which moves the last bit.
    assert relative_l2(whole, golden[f"trajectory/{name}/leading/epsilon"][-1]) <= TOLERANCE
    carry, trajectory = begin(jnp.asarray(golden["latents"])), make_sampler(name).trajectory(Schedule(), 20)
    for start, stop in ((0, 7), (7, 8), (8, 20)):
        carry = stepper(name)(trajectory, carry, start, stop, golden["noise"])
    assert relative_l2(carry.latents, whole) <= 1e-6


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_program_serves_every_trajectory_of_a_length(name):
    traces = []

    @jax.jit
    def run(trajectory, latents):
        def denoise(x, i):
            traces.append(i)
            return jnp.tanh(x)

        return complete(denoise, make_sampler(name), trajectory, latents)

    for first_timestep in (None, 500):
        run(make_sampler(name).trajectory(Schedule(), 5, first_timestep), jnp.ones((1, 2, 2, 4)))
    assert len(traces) == 1


@pytest.mark.parametrize("first", [None, 300, 150])
@pytest.mark.parametrize(("name", "spacing"), [each for each in SPACED if each[0] not in DISTILLED])
def test_a_network_that_knows_the_picture_gives_it_back(name, spacing, first):
    x0, noise = jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, 3, 3, 4)), jnp.float32)
    schedule = Schedule(timestep_spacing=spacing, prediction_type="v_prediction", set_alpha_to_one=True)
    sampler = make_sampler(name)
    trajectory = sampler.trajectory(schedule, 3, first)
    signal, level = jnp.asarray(trajectory.signal), jnp.asarray(trajectory.noise)

    def denoise(x, i):
        return (signal[i] * x - x0) / level[i]

    with jax.disable_jit():
        result = complete(denoise, sampler, trajectory, start_latents(trajectory, x0, noise))
    np.testing.assert_allclose(result, x0, atol=1e-5)


def test_ddim_of_sd15_ends_at_the_noise_of_timestep_zero():
    x0, noise = jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, 3, 3, 4)), jnp.float32)
    trajectory = DDIM().trajectory(Schedule(), 5)
    with jax.disable_jit():
        result = complete(lambda x, i: noise, DDIM(), trajectory, start_latents(trajectory, x0, noise))
    np.testing.assert_allclose(result, Schedule().add_noise(x0, noise, 0), atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_prediction_types_lead_to_the_same_picture(name):
    """One network, read as noise, as velocity and as x_0."""
    latents = np.random.default_rng(2).normal(size=(1, 3, 3, 4)).astype(np.float32)
    results = []
    for prediction in PREDICTIONS:
        schedule = Schedule(prediction_type=prediction)
        trajectory = make_sampler(name).trajectory(schedule, 6)
        signal, level, t = (jnp.asarray(a) for a in (trajectory.signal, trajectory.noise, trajectory.timesteps))

        def denoise(x, i, prediction=prediction, signal=signal, level=level, t=t):
            velocity = fake_output(x, t[i], jnp)
            x0, noise = signal[i] * x - level[i] * velocity, signal[i] * velocity + level[i] * x
            return {"epsilon": noise, "v_prediction": velocity, "sample": x0}[prediction]

        run = jax.jit(partial(complete, denoise, make_sampler(name), trajectory))
        results.append(run(latents))
    assert relative_l2(results[1], results[0]) <= 2e-5
    assert relative_l2(results[2], results[0]) <= 2e-5


@pytest.mark.parametrize("name", SAMPLERS)
def test_bfloat16_networks_leave_the_latents_in_float32(golden, name):
    trajectory = make_sampler(name).trajectory(Schedule(prediction_type="v_prediction"), 20)

    def denoise(x, i):
        return fake_output(x.astype(jnp.bfloat16), jnp.asarray(trajectory.timesteps)[i], jnp).astype(jnp.bfloat16)

    @jax.jit
    def run(latents):
        return complete(denoise, make_sampler(name), trajectory, latents)

    result = run(golden["latents"])
    assert result.dtype == jnp.float32
    error = relative_l2(result, golden[f"trajectory/{name}/leading/v_prediction"][-1])
    assert 1e-5 < error <= 2e-2, "bfloat16 was used, and costs no more than it must"


@pytest.mark.parametrize(("name", "spacing"), SPACED)
def test_partial_start_places_all_steps_below_it(name, spacing):
    schedule = Schedule(timestep_spacing=spacing)
    trajectory = make_sampler(name).trajectory(schedule, 8, 300)
    assert trajectory.timesteps.shape == (8,)
    assert 250 <= trajectory.timesteps[0] <= 300
    assert np.all(np.diff(trajectory.timesteps) < 0)
    # A run from 300 spreads over the 301 levels as a whole run does over 1000.
    assert np.diff(trajectory.timesteps).min() >= -300 / 6


@pytest.mark.parametrize("name", SAMPLERS)
def test_results_do_not_depend_on_the_rest_of_the_batch(golden, name):
    together = whole_run(name, Schedule(), 8, golden["latents"], 500)
    alone = whole_run(name, Schedule(), 8, golden["latents"][1:], 500)
    assert relative_l2(alone[0], together[1]) <= 1e-6


@pytest.mark.parametrize(("name", "spacing"), SPACED)
def test_coefficients_are_finite_for_every_number_of_steps(name, spacing):
    for steps in range(1, 51) if name in DISTILLED else (*range(1, 60), 99, 100, 249, 250, 333, 499):
        trajectory = make_sampler(name).trajectory(Schedule(timestep_spacing=spacing), steps)
        for leaf in jax.tree.leaves(trajectory):
            assert leaf.shape == (steps,)
            assert leaf.dtype == np.float32
            assert np.all(np.isfinite(leaf))


def test_second_order_solvers_come_closer_to_the_exact_solution():
    latents = np.random.default_rng(3).normal(size=(1, 3, 3, 4)).astype(np.float32)
    schedule = Schedule(prediction_type="v_prediction", timestep_spacing="trailing")
    exact = whole_run("dpmpp_2m", schedule, 400, latents)
    error = {
        name: relative_l2(whole_run(name, schedule, 25, latents), exact) for name in ("euler", "dpmpp_2m", "unipc")
    }
    assert error["dpmpp_2m"] < 0.5 * error["euler"]
    assert error["unipc"] < 0.5 * error["euler"]


def test_preview_is_the_prediction_of_the_newest_step(golden):
    schedule = Schedule(prediction_type="sample")
    trajectory = make_sampler("unipc").trajectory(schedule, 20)
    carry = stepper("unipc")(trajectory, begin(jnp.asarray(golden["latents"])), 0, 1, golden["noise"])
    expected = fake_output(golden["latents"], trajectory.timesteps[0], np)
    np.testing.assert_allclose(carry.x0, expected, atol=1e-6)


def test_an_unknown_sampler_is_named_with_the_known_ones():
    with pytest.raises(
        InputError, match="'plms', expected one of ddim, euler, dpmpp_2m, unipc, euler_a, dpmpp_2m_sde, lcm, tcd"
    ):
        make_sampler("plms")
