"""torch diffusers' networks with the weights and inputs of `tests.narrow`. Needs the extra `reference`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from tests.narrow import CONTROLNET, UNETS, VAES, Arrays, Inputs, inputs
from tests.random_weights import random_state_dict

Module = TypeVar("Module", bound=torch.nn.Module)


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def give_weights(module: Module, state: Mapping[str, np.ndarray]) -> Module:
    """The module with these weights, whose memory it shares, ready to be called."""
    module.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, assign=True)
    return module.eval().requires_grad_(False)


def randomise(module: Module, seed: int = 0) -> Module:
    return give_weights(module, random_state_dict(shapes(module), seed))


def unet(config: UNetConfig) -> UNet2DConditionModel:
    return UNet2DConditionModel(**asdict(config))


def controlnet(config: UNetConfig, own: ControlNetConfig) -> ControlNetModel:
    encoder = {key: value for key, value in asdict(config).items() if key not in ("out_channels", "up_block_types")}
    return ControlNetModel(**encoder, **asdict(own))


def vae(config: VAEConfig) -> AutoencoderKL:
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **asdict(config),
    )


@torch.no_grad()
def diffusion_outputs(unet: UNet2DConditionModel, controlnet: ControlNetModel, given: Inputs) -> Arrays:
    """As `narrow.diffusion_outputs`."""
    call = nchw(given.latents), torch.from_numpy(given.timesteps), torch.from_numpy(given.context)
    residuals, middle = controlnet(*call, nchw(given.images), return_dict=False)
    controlled = unet(*call, down_block_additional_residuals=residuals, mid_block_additional_residual=middle)
    return {
        "sample": nhwc(unet(*call).sample),
        **{f"residual.{i}": nhwc(residual) for i, residual in enumerate(residuals)},
        "middle": nhwc(middle),
        "controlled": nhwc(controlled.sample),
    }


@torch.no_grad()
def vae_outputs(vae: AutoencoderKL, images: np.ndarray) -> Arrays:
    """As `narrow.vae_outputs`."""
    posterior = vae.encode(nchw(images)).latent_dist
    return {
        "mean": nhwc(posterior.mean),
        "logvar": nhwc(posterior.logvar),
        "decoded": nhwc(vae.decode(posterior.mean).sample),
    }


def run_diffusion(name: str) -> Arrays:
    config = UNETS[name]
    nets = randomise(unet(config)), randomise(controlnet(config, CONTROLNET), seed=1)
    return diffusion_outputs(*nets, inputs(config.cross_attention_dim))


def run_vae(name: str) -> Arrays:
    return vae_outputs(randomise(vae(VAES[name])), 2 * inputs().images - 1)
