"""Deterministic samplers, each equal to its counterpart in torch diffusers.

A sampler is a frozen dataclass with two methods: `trajectory` computes every coefficient of a run in NumPy float64,
before anything is traced; `step` applies the coefficients of one step to the latents. All four solve the same ODE, and
all are linear in the latents and in the network's x_0 predictions, so a step is a few multiply-adds in float32.

Latents are always variance-preserving, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, even for samplers whose authors
write them in terms of sigma = sqrt((1 - abar) / abar), where x_sigma = x_t / sqrt(abar_t). So the network always gets
x_t as it saw it in training.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64

from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.typing import Coefficient, Column, Latents, NumpyColumn, Step


class Coefficients(NamedTuple):
    """The coefficients of a step: x0 = x0_from_latents x_t + x0_from_output output, then
    x_next = keep x_t + new x0 + old (x0 of the step before)."""

    x0_from_latents: Coefficient
    x0_from_output: Coefficient
    keep: Coefficient
    new: Coefficient
    old: Coefficient


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
    coefficients: Coefficients | CorrectedCoefficients


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

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        """The trajectory of `num_steps` steps.

        With `first_timestep` the run starts at partial strength, at or below that timestep
        (`Schedule.spaced_timesteps`).

        Raises:
            InputError: the steps do not fit into the schedule.
        """
        ...

    # Each sampler takes the coefficients of its own trajectories, which a protocol cannot express.
    def step(self, carry: Carry, coefficients: Any, model_output: Latents) -> Carry: ...


class _LinearStep:
    """The step that DDIM, Euler and DPM-Solver++ share; they differ only in their coefficients."""

    def step(self, carry: Carry, coefficients: Coefficients, model_output: Latents) -> Carry:
        c, x_t = coefficients, carry.latents
        x0 = x_t * c.x0_from_latents + model_output.astype(jnp.float32) * c.x0_from_output
        latents = x_t * c.keep + x0 * c.new + carry.x0 * c.old
        return Carry(latents=latents, x0=x0, previous_x0=carry.x0, corrected=x_t)


@dataclass(frozen=True)
class DDIM(_LinearStep):
    """DDIM with eta 0 (Song et al. 2021, arXiv 2010.02502, eq. 12); torch diffusers' DDIMScheduler.

    As in diffusers, a step leads from t to t - R // num_steps, which with `trailing` and `linspace` spacing is not
    always the next timestep of the run. `Schedule.set_alpha_to_one` says where the last step ends.
    """

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps = schedule.spaced_timesteps(num_steps, first_timestep)
        index = timesteps.astype(np.int64)
        following = index - schedule.timestep_range(first_timestep) // num_steps
        final = 0.0 if schedule.set_alpha_to_one else schedule.sigmas[0]
        next_sigmas = np.where(following >= 0, schedule.sigmas[np.maximum(following, 0)], final)
        sigmas = np.where(schedule.alphas_cumprod[index] > 0, schedule.sigmas[index], np.inf)
        return _linear_trajectory(schedule, timesteps, sigmas, next_sigmas)


@dataclass(frozen=True)
class Euler(_LinearStep):
    """Euler's method in sigma (Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn); diffusers'
    EulerDiscreteScheduler. Timesteps of `linspace` stay fractional, with interpolated sigmas; the end is sigma 0."""

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps = schedule.spaced_timesteps(num_steps, first_timestep, whole=False).astype(np.float32)
        sigmas = np.interp(timesteps, np.arange(schedule.num_train_timesteps), schedule.sigmas)
        return _linear_trajectory(schedule, timesteps, sigmas, np.append(sigmas[1:], 0.0))


@dataclass(frozen=True)
class DPMSolverPP2M(_LinearStep):
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, arXiv 2211.01095, algorithm 2); diffusers'
    DPMSolverMultistepScheduler. The first step and the last, which ends at sigma 0, are of first order."""

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps = schedule.spaced_timesteps(num_steps, first_timestep, open_end=True)
        sigmas = schedule.sigmas[timesteps.astype(np.int64)]
        return _linear_trajectory(schedule, timesteps, sigmas, np.append(sigmas[1:], 0.0), second_order=True)


@dataclass(frozen=True)
class UniPC:
    """UniPC of order 2 with B_2(h), predicting x_0 (Zhao et al. 2023, arXiv 2302.04867); diffusers'
    UniPCMultistepScheduler.

    Its predictor is DPM-Solver++(2M). Its corrector takes the previous step again with the x_0 predicted at its end,
    without another call of the network. As in diffusers, that x_0 comes from the uncorrected latents, and the last step
    is not corrected because nothing is predicted at its end.
    """

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps = schedule.spaced_timesteps(num_steps, first_timestep, open_end=True)
        sigmas = schedule.sigmas[timesteps.astype(np.int64)]
        trajectory = _linear_trajectory(schedule, timesteps, sigmas, np.append(sigmas[1:], 0.0), second_order=True)
        trust, anchor, now, last, older = np.zeros((5, num_steps))
        trust[0] = 1.0
        if num_steps > 1:
            keep, gain = _first_order(sigmas[:-1], sigmas[1:])
            now_share, older_share = _corrector_shares(-np.log(sigmas))
            anchor[1:], now[1:], older[1:] = keep, gain * now_share, gain * older_share
            last[1:] = gain * (1 - now_share - older_share)
        corrector = (value.astype(np.float32) for value in (trust, anchor, now, last, older))
        assert isinstance(trajectory.coefficients, Coefficients)
        return trajectory._replace(coefficients=CorrectedCoefficients(trajectory.coefficients, *corrector))

    def step(self, carry: Carry, coefficients: CorrectedCoefficients, model_output: Latents) -> Carry:
        c, p = coefficients, coefficients.predictor
        x0 = carry.latents * p.x0_from_latents + model_output.astype(jnp.float32) * p.x0_from_output
        history = carry.x0 * c.last + carry.previous_x0 * c.older
        corrected = carry.latents * c.trust + carry.corrected * c.anchor + x0 * c.now + history
        latents = corrected * p.keep + x0 * p.new + carry.x0 * p.old
        return Carry(latents=latents, x0=x0, previous_x0=carry.x0, corrected=corrected)


SAMPLERS: dict[str, type[Sampler]] = {"ddim": DDIM, "euler": Euler, "dpmpp_2m": DPMSolverPP2M, "unipc": UniPC}


def make_sampler(name: str) -> Sampler:
    """Make the sampler of that name.

    Raises:
        InputError: there is no such sampler.
    """
    if name not in SAMPLERS:
        raise InputError(f"sampler is {name!r}, expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]()


def start_latents(trajectory: Trajectory, x0: Latents, noise: Latents) -> Latents:
    """The latents x_t at the first timestep, float32, from x_0 (latents to start from, or zeros) and unit noise."""
    return trajectory.signal[0] * x0.astype(jnp.float32) + trajectory.noise[0] * noise.astype(jnp.float32)


def begin(latents: Latents) -> Carry:
    """The carry before step 0, given x_t at the first timestep."""
    latents = latents.astype(jnp.float32)
    nothing = jnp.zeros_like(latents)
    return Carry(latents=latents, x0=nothing, previous_x0=nothing, corrected=nothing)


def take_step(sampler: Sampler, trajectory: Trajectory, carry: Carry, model_output: Latents, step: int | Step) -> Carry:
    """Take one step of a trajectory, with the network's output for it."""
    coefficients = jax.tree.map(lambda column: jnp.asarray(column)[step], trajectory.coefficients)
    return sampler.step(carry, coefficients, model_output)


def _linear_trajectory(
    schedule: Schedule,
    timesteps: Float[np.ndarray, " steps"],
    sigmas: NumpyColumn,
    next_sigmas: NumpyColumn,
    second_order: bool = False,
) -> Trajectory:
    """The trajectory whose steps lead from sigmas[i] to next_sigmas[i].

    With `second_order`, all steps but the first and the last are of second order.
    """
    signal, noise = _levels(sigmas)
    if schedule.prediction_type == "epsilon":
        x0_from_latents, x0_from_output = 1 / signal, -noise / signal
    elif schedule.prediction_type == "v_prediction":
        x0_from_latents, x0_from_output = signal, -noise
    else:
        x0_from_latents, x0_from_output = np.zeros_like(signal), np.ones_like(signal)
    keep, gain = _first_order(sigmas, next_sigmas)
    # 1 / (2 r_0): how far the line through the last two predictions is followed, which is to the middle of the step.
    slope = np.zeros_like(signal)
    if second_order and len(sigmas) > 2:
        stride = -np.diff(np.log(sigmas))
        slope[1:-1] = 0.5 * stride[1:] / stride[:-1]
    columns = (x0_from_latents, x0_from_output, keep, gain * (1 + slope), -gain * slope)
    coefficients = Coefficients(*(column.astype(np.float32) for column in columns))
    return Trajectory(timesteps.astype(np.float32), signal.astype(np.float32), noise.astype(np.float32), coefficients)


def _levels(sigmas: NumpyColumn) -> tuple[NumpyColumn, NumpyColumn]:
    """sqrt(abar) and sqrt(1 - abar) of given sigmas, their second over their first, infinite for pure noise."""
    signal = 1 / np.sqrt(1 + sigmas**2)
    return signal, np.multiply(sigmas, signal, out=np.ones_like(signal), where=np.isfinite(sigmas))


def _first_order(sigmas: NumpyColumn, next_sigmas: NumpyColumn) -> tuple[NumpyColumn, NumpyColumn]:
    """`keep` and `gain` of the exact solution for a constant x_0: x_next = keep x_t + gain x_0."""
    signal, noise = _levels(sigmas)
    next_signal, next_noise = _levels(next_sigmas)
    return next_noise / noise, next_signal - signal * next_noise / noise


def _corrector_shares(
    log_snr: NumpyColumn,
) -> tuple[Float64[np.ndarray, " corrected"], Float64[np.ndarray, " corrected"]]:
    """The shares of the newest and the oldest x_0 in each corrected step i -> i + 1; all steps but one are corrected.

    The weights rho solve the order conditions R rho = b of UniC-2 (arXiv 2302.04867, eq. 5), with half-log-SNR
    lambda, h its stride, and r the place of the oldest point in units of h; UniC-1, which has two points, takes 1/2.
    """
    h = np.diff(log_snr)
    b_h = np.expm1(-h)
    b1 = -1 / h - 1 / b_h
    b2 = 2 * ((b_h / -h - 1) / -h - 0.5) / b_h
    newest, oldest = np.full_like(h, 0.5), np.zeros_like(h)
    r = -h[:-1] / h[1:]
    rho_oldest = (b1 - b2)[1:] / (1 - r)
    newest[1:] = b1[1:] - rho_oldest
    oldest[1:] = rho_oldest / r
    return newest, oldest
