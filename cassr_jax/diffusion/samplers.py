"""The samplers by name, and the deterministic ones, each equal to its counterpart in torch diffusers.

The four samplers here solve the same ODE; those of `stochastic` add fresh noise in every step.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.diffusion.stochastic import LCM, TCD, DPMSolverPP2MSDE, EulerAncestral
from cassr_jax.diffusion.trajectory import (
    Carry,
    Coefficients,
    CorrectedCoefficients,
    LinearStep,
    Sampler,
    Trajectory,
    first_order,
    fractional_points,
    linear_trajectory,
    midpoint_slope,
    sigmas_at,
)
from cassr_jax.errors import InputError
from cassr_jax.typing import Latents, NumpyColumn


@dataclass(frozen=True)
class DDIM(LinearStep):
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
        sigmas = sigmas_at(schedule, index)
        return linear_trajectory(schedule, timesteps, sigmas, *first_order(sigmas, next_sigmas))


@dataclass(frozen=True)
class Euler(LinearStep):
    """Euler's method in sigma (Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn); diffusers'
    EulerDiscreteScheduler. Timesteps of `linspace` stay fractional, with interpolated sigmas; the end is sigma 0."""

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps, sigmas = fractional_points(schedule, num_steps, first_timestep)
        return linear_trajectory(schedule, timesteps, sigmas, *first_order(sigmas, np.append(sigmas[1:], 0.0)))


@dataclass(frozen=True)
class DPMSolverPP2M(LinearStep):
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, arXiv 2211.01095, algorithm 2); diffusers'
    DPMSolverMultistepScheduler. The first step and the last, which ends at sigma 0, are of first order."""

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        timesteps = schedule.spaced_timesteps(num_steps, first_timestep, open_end=True)
        sigmas = schedule.sigmas[timesteps.astype(np.int64)]
        keep, gain = first_order(sigmas, np.append(sigmas[1:], 0.0))
        return linear_trajectory(schedule, timesteps, sigmas, keep, gain, slope=midpoint_slope(sigmas))


@dataclass(frozen=True)
class UniPC:
    """UniPC of order 2 with B_2(h), predicting x_0 (Zhao et al. 2023, arXiv 2302.04867); diffusers'
    UniPCMultistepScheduler.

    Its predictor is DPM-Solver++(2M). Its corrector takes the previous step again with the x_0 predicted at its end,
    without another call of the network. As in diffusers, that x_0 comes from the uncorrected latents, and the last step
    is not corrected because nothing is predicted at its end.
    """

    noisy = False

    def trajectory(self, schedule: Schedule, num_steps: int, first_timestep: int | None = None) -> Trajectory:
        trajectory = DPMSolverPP2M().trajectory(schedule, num_steps, first_timestep)
        sigmas = schedule.sigmas[trajectory.timesteps.astype(np.int64)]
        trust, anchor, now, last, older = np.zeros((5, num_steps))
        trust[0] = 1.0
        if num_steps > 1:
            keep, gain = first_order(sigmas[:-1], sigmas[1:])
            now_share, older_share = _corrector_shares(-np.log(sigmas))
            anchor[1:], now[1:], older[1:] = keep, gain * now_share, gain * older_share
            last[1:] = gain * (1 - now_share - older_share)
        corrector = (value.astype(np.float32) for value in (trust, anchor, now, last, older))
        assert isinstance(trajectory.coefficients, Coefficients)
        return trajectory._replace(coefficients=CorrectedCoefficients(trajectory.coefficients, *corrector))

    def step(
        self, carry: Carry, coefficients: CorrectedCoefficients, model_output: Latents, noise: Latents | None = None
    ) -> Carry:
        c, p = coefficients, coefficients.predictor
        x0 = carry.latents * p.x0_from_latents + model_output.astype(jnp.float32) * p.x0_from_output
        history = carry.x0 * c.last + carry.previous_x0 * c.older
        corrected = carry.latents * c.trust + carry.corrected * c.anchor + x0 * c.now + history
        latents = corrected * p.keep + x0 * p.new + carry.x0 * p.old
        return Carry(latents=latents, x0=x0, previous_x0=carry.x0, corrected=corrected)


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


SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "euler": Euler,
    "dpmpp_2m": DPMSolverPP2M,
    "unipc": UniPC,
    "euler_a": EulerAncestral,
    "dpmpp_2m_sde": DPMSolverPP2MSDE,
    "lcm": LCM,
    "tcd": TCD,
}


def make_sampler(name: str, eta: float | None = None) -> Sampler:
    """Make the sampler of that name.

    Args:
        eta: how much noise each step adds, 0 to 1, for a sampler that lets one choose; None for its own.

    Raises:
        InputError: there is no such sampler, or it has no `eta`.
    """
    if name not in SAMPLERS:
        raise InputError(f"sampler is {name!r}, expected one of {', '.join(SAMPLERS)}")
    if eta is None:
        return SAMPLERS[name]()
    if name != "tcd":
        raise InputError(f"eta is {eta} for the sampler {name}, expected None, or the sampler tcd")
    return TCD(eta)
