"""Trajectories of torch diffusers' schedulers over the fake network. Needs the extra `reference`."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch

from tests.diffusion.fake_network import fake_output

SEED = 0
SHAPE = (2, 3, 2, 4)
SPACINGS = ("leading", "trailing", "linspace")
CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler,
    "dpmpp_2m_sde": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "tcd": diffusers.TCDScheduler,
}
OWN: Mapping[str, Mapping[str, Any]] = {
    "ddim": {"clip_sample": False, "set_alpha_to_one": False},
    "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
}


def spacings(sampler: str) -> tuple[str, ...]:
    """The spacings that differ for a sampler; `lcm` and `tcd` have timesteps of their own."""
    return SPACINGS[:1] if sampler in ("lcm", "tcd") else SPACINGS


def start() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=SHAPE).astype(np.float32)


def noise(steps: int) -> np.ndarray:
    """Fresh noise for every step, (steps, *SHAPE) float32; that of fewer steps is its beginning."""
    return np.random.default_rng(SEED + 1).normal(size=(steps, *SHAPE)).astype(np.float32)


def scheduler(
    sampler: str,
    spacing: str,
    prediction: str,
    beta_schedule: str = "scaled_linear",
    *,
    zero_snr: bool = False,
    **more: Any,
) -> Any:
    """SD-1.5's settings, with everything else at the class's own default."""
    return CLASSES[sampler](
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=beta_schedule,
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=1,
        rescale_betas_zero_snr=zero_snr,
        **{**OWN.get(sampler, {}), **more},
    )


def timesteps(scheduler: Any, steps: int) -> np.ndarray:
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.numpy()


def trajectory(scheduler: Any, steps: int, latents: np.ndarray, **of_step: Any) -> np.ndarray:
    """Variance-preserving latents after every step, (steps, *latents.shape) float32.

    Args:
        of_step: arguments of the scheduler's `step`.
    """
    scheduler.set_timesteps(steps)
    return as_planned(scheduler, latents, **of_step)


def as_planned(scheduler: Any, latents: np.ndarray, **of_step: Any) -> np.ndarray:
    """The same at the timesteps to which the scheduler is set."""
    steps = len(scheduler.timesteps)
    in_sigma = isinstance(scheduler, diffusers.EulerDiscreteScheduler | diffusers.EulerAncestralDiscreteScheduler)
    scales = torch.sqrt(scheduler.sigmas**2 + 1) if in_sigma else torch.ones(steps + 1)
    x, result = torch.from_numpy(latents) * scales[0], []
    for t, scale, fresh in zip(scheduler.timesteps, scales[1:], noise(steps), strict=True):
        output = fake_output(scheduler.scale_model_input(x, t), t.float(), torch)
        drawn = partial(_drawn, fresh)
        # Not every module draws.
        with mock.patch.object(sys.modules[type(scheduler).__module__], "randn_tensor", drawn, create=True):
            x = scheduler.step(output, t, x, **of_step).prev_sample
        result.append((x / scale).numpy())
    return np.stack(result)


def _drawn(noise: np.ndarray, shape: tuple[int, ...], **_: Any) -> torch.Tensor:
    assert tuple(shape) == noise.shape
    return torch.from_numpy(noise)
