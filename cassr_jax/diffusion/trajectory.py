"""What all samplers share: a run that is computed in advance, what passes from step to step, and the linear step.

A sampler is a frozen dataclass with two methods: `trajectory` computes every coefficient of a run in NumPy float64,
before anything is traced; `step` applies the coefficients of one step to the latents. All samplers are linear in the
latents, in the network's x_0 predictions and in the fresh noise, so a step is a few multiply-adds in float32.

Latents are always variance-preserving, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, even for samplers whose authors
write them in terms of sigma = sqrt((1 - abar) / abar), where x_sigma = x_t / sqrt(abar_t). So the network always gets
x_t as it saw it in training.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int64

from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.typing import Coefficient, Column, Latents, NumpyColumn, Step


class Coefficients(NamedTuple):
    """The coefficients of a step: x0 = x0_from_latents x_t + x0_from_output output, then
    x_next = keep x_t + new x0 + old (x0 of the step before)."""

    x0_from_latents: Coefficient
    x0_from_output: Coefficient
    keep: Coefficient
    new: Coefficient
    old: Coefficient


class NoisyCoefficients(NamedTuple):
    """The coefficients of a step that adds noise: after the step `mean`, x_next <- x_next + fresh noise."""

    mean: Coefficients
    fresh: Coefficient


class CorrectedCoefficients(NamedTuple):
    """UniPC's coefficients: before the step, x_t <- trust x_t + anchor x_before + now x0 + last x0_before +
    older x0_two_before."""

    predictor: Coefficients
    trust: Coefficient
    anchor: Coefficient
    now: Coefficient
    last: Coefficient
    older: Coefficient


class Trajectory(NamedTuple):
    """A sampling run, computed in advance. As a pytree, it may be a constant or an argument of a jitted function.

    Attributes:
        timesteps: the falling timesteps that the network is given; whole numbers, except for Euler with `linspace`.
        signal: sqrt(abar) at each of them.
        noise: sqrt(1 - abar) at each of them.
        coefficients: the sampler's coefficients; every leaf has one value for each step.
    """

    timesteps: Column
    signal: Column
    noise: Column
    coefficients: Coefficients | NoisyCoefficients | CorrectedCoefficients


class Carry(NamedTuple):
    """What passes from step to step, in float32.

    Attributes:
        latents: x_t at the timestep of the coming step; after the last step, the result.
        x0: the latest prediction of x_0, which a preview shows.
        previous_x0: the prediction one step before it.
        corrected: the x_t from which the latest step started, after UniPC's corrector.
    """

    latents: Latents
    x0: Latents
    previous_x0: Latents
    corrected: Latents


@runtime_checkable
class Sampler(Protocol):
    """A sampler: how a run is planned, and how one of its steps is taken."""

    @property
    def noisy(self) -> bool:
        """Whether `step` takes fresh noise."""
        ...

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        """The trajectory of `num_steps` steps.

        With `first_timestep` the run starts at partial strength, at or below that timestep
        (`Schedule.spaced_timesteps`).

        Raises:
            InputError: the steps do not fit into the schedule.
        """
        ...

    # Each sampler takes the coefficients of its own trajectories, which a protocol cannot express.
    def step(self, carry: Carry, coefficients: Any, model_output: Latents, noise: Latents | None = None) -> Carry:
        """The carry after a step; `noise` is unit normal, or None if the sampler is not noisy."""
        ...


class LinearStep:
    """The step that most deterministic samplers share; they differ only in their coefficients."""

    noisy = False

    def step(
        self, carry: Carry, coefficients: Coefficients, model_output: Latents, noise: Latents | None = None
    ) -> Carry:
        c, x_t = coefficients, carry.latents
        x0 = x_t * c.x0_from_latents + model_output.astype(jnp.float32) * c.x0_from_output
        latents = x_t * c.keep + x0 * c.new + carry.x0 * c.old
        return Carry(latents=latents, x0=x0, previous_x0=carry.x0, corrected=x_t)


def start_latents(trajectory: Trajectory, x0: Latents, noise: Latents) -> Latents:
    """The latents x_t at the first timestep, float32, from x_0 (latents to start from, or zeros) and unit noise."""
    return trajectory.signal[0] * x0.astype(jnp.float32) + trajectory.noise[0] * noise.astype(jnp.float32)


def begin(latents: Latents) -> Carry:
    """The carry before step 0, given x_t at the first timestep."""
    latents = latents.astype(jnp.float32)
    nothing = jnp.zeros_like(latents)
    return Carry(latents=latents, x0=nothing, previous_x0=nothing, corrected=nothing)


def take_step(
    sampler: Sampler,
    trajectory: Trajectory,
    carry: Carry,
    model_output: Latents,
    step: int | Step,
    noise: Latents | None = None,
) -> Carry:
    """Take one step of a trajectory, with the network's output for it, and unit noise if the sampler is noisy."""
    coefficients = jax.tree.map(lambda column: jnp.asarray(column)[step], trajectory.coefficients)
    return sampler.step(carry, coefficients, model_output, noise)


def linear_trajectory(
    schedule: Schedule,
    timesteps: Float[np.ndarray, " steps"],
    sigmas: NumpyColumn,
    keep: NumpyColumn,
    gain: NumpyColumn,
    *,
    slope: NumpyColumn | float = 0.0,
    fresh: NumpyColumn | None = None,
) -> Trajectory:
    """The trajectory with the steps x_next = keep x_t + gain x_0 + fresh noise from sigmas[i] on.

    Args:
        slope: how far x_0 follows the line through the last two predictions, in units of their distance.
        fresh: the share of fresh noise; None for a deterministic sampler.
    """
    signal, noise = levels(sigmas)
    if schedule.prediction_type == "epsilon":
        x0_from_latents, x0_from_output = 1 / signal, -noise / signal
    elif schedule.prediction_type == "v_prediction":
        x0_from_latents, x0_from_output = signal, -noise
    else:
        x0_from_latents, x0_from_output = np.zeros_like(signal), np.ones_like(signal)
    columns = (x0_from_latents, x0_from_output, keep, gain * (1 + slope), -gain * slope)
    coefficients = Coefficients(*(column.astype(np.float32) for column in columns))
    if fresh is not None:
        coefficients = NoisyCoefficients(coefficients, fresh.astype(np.float32))
    return Trajectory(timesteps.astype(np.float32), signal.astype(np.float32), noise.astype(np.float32), coefficients)


def fractional_points(
    schedule: Schedule, num_steps: int, first_timestep: int | None
) -> tuple[NumpyColumn, NumpyColumn]:
    """The timesteps of Euler's method, which stay fractional with `linspace`, and their interpolated sigmas."""
    timesteps = schedule.spaced_timesteps(num_steps, first_timestep, whole=False).astype(np.float32)
    sigmas = np.interp(timesteps, np.arange(schedule.num_train_timesteps), schedule.sigmas)
    return timesteps.astype(np.float64), sigmas


def sigmas_at(schedule: Schedule, timesteps: Int64[np.ndarray, " steps"]) -> NumpyColumn:
    """The sigmas of timesteps, infinite for pure noise, for samplers that do not step in sigma."""
    return np.where(schedule.alphas_cumprod[timesteps] > 0, schedule.sigmas[timesteps], np.inf)


def levels(sigmas: NumpyColumn) -> tuple[NumpyColumn, NumpyColumn]:
    """sqrt(abar) and sqrt(1 - abar) of given sigmas, their second over their first, infinite for pure noise."""
    signal = 1 / np.sqrt(1 + sigmas**2)
    return signal, np.multiply(sigmas, signal, out=np.ones_like(signal), where=np.isfinite(sigmas))


def first_order(sigmas: NumpyColumn, next_sigmas: NumpyColumn) -> tuple[NumpyColumn, NumpyColumn]:
    """`keep` and `gain` of the exact solution for a constant x_0: x_next = keep x_t + gain x_0."""
    signal, noise = levels(sigmas)
    next_signal, next_noise = levels(next_sigmas)
    return next_noise / noise, next_signal - signal * next_noise / noise


def midpoint_slope(sigmas: NumpyColumn) -> NumpyColumn:
    """1 / (2 r_0), which leads to the middle of the step; 0 in the first and the last, which are of first order."""
    slope = np.zeros_like(sigmas)
    if len(sigmas) > 2:
        stride = -np.diff(np.log(sigmas))
        slope[1:-1] = 0.5 * stride[1:] / stride[:-1]
    return slope
