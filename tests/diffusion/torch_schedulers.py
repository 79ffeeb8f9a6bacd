"""Trajectories of torch diffusers' schedulers over the fake network. Needs the extra `reference`."""

from typing import Any

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
}


def start() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=SHAPE).astype(np.float32)


def scheduler(
    sampler: str,
    spacing: str,
    prediction: str,
    beta_schedule: str = "scaled_linear",
    *,
    set_alpha_to_one: bool = False,
    zero_snr: bool = False,
) -> Any:
    """SD-1.5's settings, with everything else at the class's own default."""
    own = {"clip_sample": False, "set_alpha_to_one": set_alpha_to_one} if sampler == "ddim" else {}
    own |= {"rescale_betas_zero_snr": zero_snr}
    return CLASSES[sampler](
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=beta_schedule,
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=1,
        **own,
    )


def timesteps(scheduler: Any, steps: int) -> np.ndarray:
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.numpy()


def trajectory(scheduler: Any, steps: int, latents: np.ndarray) -> np.ndarray:
    """Variance-preserving latents after every step, (steps, *latents.shape) float32."""
    scheduler.set_timesteps(steps)
    in_sigma = isinstance(scheduler, diffusers.EulerDiscreteScheduler)
    scales = torch.sqrt(scheduler.sigmas**2 + 1) if in_sigma else torch.ones(steps + 1)
    x, result = torch.from_numpy(latents) * scales[0], []
    for t, scale in zip(scheduler.timesteps, scales[1:], strict=True):
        output = fake_output(scheduler.scale_model_input(x, t), t.float(), torch)
        x = scheduler.step(output, t, x).prev_sample
        result.append((x / scale).numpy())
    return np.stack(result)
