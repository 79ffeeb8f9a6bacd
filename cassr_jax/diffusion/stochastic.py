"""Samplers that add fresh noise in every step, each equal to its counterpart in torch diffusers."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int64

from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.diffusion.trajectory import (
    Carry,
    LinearStep,
    NoisyCoefficients,
    Trajectory,
    first_order,
    fractional_points,
    levels,
    linear_trajectory,
    midpoint_slope,
    sigmas_at,
)
from cassr_jax.errors import InputError
from cassr_jax.typing import Latents, NumpyColumn

_DISTILLED_TIMESTEPS = 50  # timesteps to which consistency models are distilled; diffusers' original_inference_steps


class _NoisyStep:
    """The linear step, and fresh noise."""

    @property
    def noisy(self) -> bool:
        return True

    def step(
        self, carry: Carry, coefficients: NoisyCoefficients, model_output: Latents, noise: Latents | None = None
    ) -> Carry:
        after = LinearStep().step(carry, coefficients.mean, model_output)
        if noise is None:
            assert not self.noisy, "a noisy sampler is given noise"
            return after
        return after._replace(latents=after.latents + coefficients.fresh * noise.astype(jnp.float32))


@dataclass(frozen=True)
class EulerAncestral(_NoisyStep):
    """Euler's method with ancestral noise (k-diffusion's sample_euler_ancestral with eta 1); diffusers'
    EulerAncestralDiscreteScheduler. Timesteps and sigmas are those of `Euler`."""

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps, sigmas = fractional_points(schedule, num_steps, first_timestep)
        keep, gain, fresh = _ancestral(sigmas, np.append(sigmas[1:], 0.0))
        return linear_trajectory(schedule, timesteps, sigmas, keep, gain, fresh=fresh)


@dataclass(frozen=True)
class DPMSolverPP2MSDE(_NoisyStep):
    """SDE-DPM-Solver++(2M), midpoint form (Lu et al. 2022, arXiv 2211.01095, eq. 18); diffusers'
    DPMSolverMultistepScheduler with algorithm_type "sde-dpmsolver++". Its first order is `EulerAncestral`; the first
    step and the last, which ends at sigma 0, are of that order."""

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps = schedule.spaced_timesteps(num_steps, first_timestep, open_end=True)
        sigmas = schedule.sigmas[timesteps.astype(np.int64)]
        keep, gain, fresh = _ancestral(sigmas, np.append(sigmas[1:], 0.0))
        return linear_trajectory(schedule, timesteps, sigmas, keep, gain, slope=midpoint_slope(sigmas), fresh=fresh)


@dataclass(frozen=True)
class LCM(_NoisyStep):
    """Multistep sampling of a latent consistency model (Luo et al. 2023, arXiv 2310.04378, algorithm 3); diffusers'
    LCMScheduler. It takes every x_0 for the truth and adds all noise of the next timestep anew.

    The timesteps are those of `_distilled_timesteps`, whatever the schedule's spacing.
    """

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps = _distilled_timesteps(schedule, num_steps, first_timestep)
        sigmas = sigmas_at(schedule, timesteps)
        next_signal, next_noise = levels(np.append(sigmas[1:], 0.0))
        # The boundary condition of consistency models (eq. 9 there), with diffusers' sigma_data and timestep_scaling.
        sigma_data, scaled = 0.5, 10.0 * timesteps
        skip = sigma_data**2 / (scaled**2 + sigma_data**2)
        out = scaled / np.sqrt(scaled**2 + sigma_data**2)
        timesteps = timesteps.astype(np.float64)
        return linear_trajectory(schedule, timesteps, sigmas, next_signal * skip, next_signal * out, fresh=next_noise)


@dataclass(frozen=True)
class TCD(_NoisyStep):
    """Strategic stochastic sampling of trajectory consistency distillation (Zheng et al. 2024, arXiv 2402.19159,
    algorithm 4); diffusers' TCDScheduler.

    A step leads without noise to the share 1 - eta of the next timestep, and from there to that timestep with noise.
    The last ends at the noise level of timestep 0. The timesteps are those of `_distilled_timesteps`, whatever the
    schedule's spacing.

    Attributes:
        eta: the paper's gamma, 0 (deterministic) to 1 (all noise anew).
    """

    eta: float = 0.3

    @property
    def noisy(self) -> bool:
        return self.eta > 0

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps = _distilled_timesteps(schedule, num_steps, first_timestep)
        following = np.append(timesteps[1:], 0)
        # In float32, as diffusers multiplies, since the result is rounded down.
        between = np.floor(np.float32(1 - self.eta) * following.astype(np.float32)).astype(np.int64)
        sigmas, sigmas_between = sigmas_at(schedule, timesteps), schedule.sigmas[between]
        keep, gain = first_order(sigmas, sigmas_between)
        ratio = levels(schedule.sigmas[following])[0] / levels(sigmas_between)[0]
        return linear_trajectory(
            schedule, timesteps.astype(np.float64), sigmas, ratio * keep, ratio * gain, fresh=np.sqrt(1 - ratio**2)
        )


def _ancestral(sigmas: NumpyColumn, next_sigmas: NumpyColumn) -> tuple[NumpyColumn, NumpyColumn, NumpyColumn]:
    """`keep`, `gain` and `fresh` of the exact solution of the SDE for a constant x_0."""
    (signal, _), (next_signal, next_noise) = levels(sigmas), levels(next_sigmas)
    kept = (next_sigmas / sigmas) ** 2
    return next_signal / signal * kept, next_signal * (1 - kept), next_noise * np.sqrt(1 - kept)


def _distilled_timesteps(schedule: Schedule, num_steps: int, first_timestep: int | None) -> Int64[np.ndarray, " steps"]:
    """Falling timesteps, evenly chosen from those to which consistency models are distilled, as diffusers chooses them.

    A model is distilled to every (T // 50)-th timestep: 19, 39, ... 999 of 1000. With `first_timestep`, the choice is
    among those up to it.

    Raises:
        InputError: there are fewer timesteps than steps.
    """
    if num_steps < 1:
        raise InputError(f"the number of sampling steps is {num_steps}, expected at least 1")
    stride = schedule.num_train_timesteps // _DISTILLED_TIMESTEPS
    if stride < 1:
        raise InputError(
            f"num_train_timesteps is {schedule.num_train_timesteps}, expected at least {_DISTILLED_TIMESTEPS} for the "
            "samplers lcm and tcd"
        )
    count = min(schedule.timestep_range(first_timestep) // stride, _DISTILLED_TIMESTEPS)
    if num_steps > count:
        raise InputError(
            f"{num_steps} sampling steps do not fit into the {count} timesteps up to "
            f"{schedule.timestep_range(first_timestep) - 1} to which the samplers lcm and tcd are distilled, expected "
            f"{f'at most {count}, or ' if count else ''}a higher first timestep"
        )
    chosen = np.floor(np.linspace(0, count, num=num_steps, endpoint=False)).astype(np.int64)
    return stride * (count - chosen) - 1
