"""Write diffusion.npz: what torch diffusers' schedulers do, for tests that run without torch.

Run from the repository root, with the extra `reference` installed: `python -m tests.golden.make_diffusion`.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch

from tests.diffusion import torch_schedulers

STEPS = 20
TABLE_STEPS = (1, 2, 3, 20, 50)


def main() -> None:
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "numpy": np.__version__}
    arrays: dict[str, np.ndarray] = {
        "versions": np.array(json.dumps(versions)),
        "seed": np.array(torch_schedulers.SEED),
        "latents": torch_schedulers.start(),
        "noise": torch_schedulers.noise(STEPS),
    }
    for name, beta_schedule in (
        ("scaled_linear", "scaled_linear"),
        ("linear", "linear"),
        ("cosine", "squaredcos_cap_v2"),
    ):
        scheduler = torch_schedulers.scheduler("ddim", "leading", "epsilon", beta_schedule=beta_schedule)
        arrays[f"alphas_cumprod/{name}"] = scheduler.alphas_cumprod.numpy()
    for sampler in torch_schedulers.CLASSES:
        for spacing in torch_schedulers.spacings(sampler):
            for steps in TABLE_STEPS:
                timesteps = torch_schedulers.timesteps(torch_schedulers.scheduler(sampler, spacing, "epsilon"), steps)
                arrays[f"timesteps/{sampler}/{spacing}/{steps}"] = timesteps
            for prediction in ("epsilon", "v_prediction"):
                scheduler = torch_schedulers.scheduler(sampler, spacing, prediction)
                trajectory = torch_schedulers.trajectory(scheduler, STEPS, arrays["latents"])
                arrays[f"trajectory/{sampler}/{spacing}/{prediction}"] = trajectory
    np.savez_compressed(Path(__file__).with_name("diffusion.npz"), **arrays)


if __name__ == "__main__":
    main()
