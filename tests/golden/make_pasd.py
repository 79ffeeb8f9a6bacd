"""Write pasd.npz: what PASD's published classes predict, and the latents of a whole run of its sampler.

Run from the repository root with the extra `reference` and `einops` installed, and an unpacked source archive of
github.com/yangxy/PASD at COMMIT: `python -m tests.golden.make_pasd FOLDER COMMIT`. Only the numbers that it gives and
the names of its weights are kept. It takes four minutes and 14 GB of memory.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from diffusers.models.unets import unet_2d_blocks

from tests.golden.make_rrdbnet import Block
from tests.narrow_pasd import CASES, FULL, SAMPLED, SAMPLING, SCALE, SCHEDULE, SEEDS, case_of, given, smaller
from tests.references import nchw, nhwc, randomise, shapes


@torch.no_grad()
def published(case: str) -> tuple[Any, Any]:
    """Its U-Net and ControlNet at the widths of the case."""
    light, rrdb, widths, hint = case_of(case)
    package = f"pasd.models.{'pasd_light' if light else 'pasd'}"
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(widths).items()}
    unet = import_module(f"{package}.unet_2d_condition").UNet2DConditionModel(**fields)
    for name in ("out_channels", "up_block_types"):
        del fields[name]
    controlnet = import_module(f"{package}.controlnet").ControlNetModel(
        **fields, conditioning_embedding_out_channels=hint, return_rgbs=True, use_rrdb=rrdb
    )
    for network, seed in ((unet, SEEDS["unet"]), (controlnet, SEEDS["controlnet"])):
        for name, value in randomise(network, seed).named_parameters():
            value.mul_(smaller(name))
    return unet, controlnet


def predict(unet: Any, controlnet: Any, latents: Any, timesteps: Any, context: Any, images: Any, scale: float) -> Any:
    rgbs, residuals, middle = controlnet(
        latents, timesteps, context, images, conditioning_scale=scale, return_dict=False
    )
    made = unet(
        latents,
        timesteps,
        context,
        down_block_additional_residuals=residuals,
        mid_block_additional_residual=middle,
        return_dict=False,
    )[0]
    return made, rgbs


def widened(array: torch.Tensor) -> torch.Tensor:
    return array.double() if array.is_floating_point() else array


def sampled(unet: Any, controlnet: Any) -> dict[str, np.ndarray]:
    """Its pipeline's loop, from latents with both noises.

    The second noise is that of its timestep, as diffusers gave it when PASD was written. Later versions look the
    timestep up among those of the run, and take the last of these if it is not among them.
    """
    own = given()
    config = {name: value for name, value in SCHEDULE.to_diffusers().items() if name != "_class_name"}
    scheduler = UniPCMultistepScheduler.from_config(config)
    scheduler.set_timesteps(SAMPLING.num_steps)
    first = scheduler.timesteps[:1]
    latents = scheduler.add_noise(nchw(own.latents), nchw(own.noises[0]), first)
    alpha = scheduler.alphas_cumprod[SAMPLING.added_noise_level]
    latents = alpha.sqrt() * latents + (1 - alpha).sqrt() * nchw(own.noises[1])
    context = torch.from_numpy(np.repeat(own.context[[0, 2]], 2, axis=0))
    images = torch.cat([nchw(own.images)] * 2)
    found = {"step.0": nhwc(latents)}
    for i, t in enumerate(scheduler.timesteps):
        both, _ = predict(unet, controlnet, torch.cat([latents] * 2), t, context, images, 1.0)
        negative, positive = both.chunk(2)
        output = negative + SAMPLING.guidance_scale * (positive - negative)
        latents = scheduler.step(output, t, latents, return_dict=False)[0]
        found[f"step.{i + 1}"] = nhwc(latents)
    return found


@torch.no_grad()
def main(folder: Path, commit: str) -> None:
    sys.path.insert(0, str(folder))
    # Where the light variant looks for what diffusers has moved since, and the others for basicsr's block.
    sys.modules["diffusers.models.transformers.unet_2d_blocks"] = unet_2d_blocks
    sys.modules["basicsr.archs.rrdbnet_arch"] = rrdbnet = ModuleType("rrdbnet_arch")
    rrdbnet.RRDB = Block  # pyright: ignore[reportAttributeAccessIssue]
    arrays, names = {}, {}
    for case in CASES | FULL:
        own = given(case)
        unet, controlnet = published(case)
        call = nchw(own.latents), torch.from_numpy(own.timesteps), torch.from_numpy(own.context[1:3]), nchw(own.images)
        made, rgbs = predict(unet, controlnet, *call, SCALE)
        if case in FULL:  # so many products that float32 alone is as far from the truth as other cases may be
            wide = predict(unet.double(), controlnet.double(), *(widened(each) for each in call), SCALE)[0]
            arrays[f"{case}/float32"] = np.float64((made - wide).norm() / wide.norm())
            made, rgbs = wide.float(), []
        arrays |= {f"{case}/prediction": nhwc(made)} | {f"{case}/rgb.{i}": nhwc(rgb) for i, rgb in enumerate(rgbs)}
        if case in CASES:
            names[case] = {"unet": shapes(unet), "controlnet": shapes(controlnet)}
        if case == SAMPLED:
            arrays |= {f"run/{name}": value for name, value in sampled(unet, controlnet).items()}
    np.savez_compressed(
        Path(__file__).with_name("pasd.npz"),
        **arrays,
        shapes=json.dumps(names),
        versions=json.dumps({"torch": torch.__version__, "diffusers": diffusers.__version__, "pasd": commit}),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
