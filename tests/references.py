"""The networks of `tests.narrow`, same weights, same inputs, in torch. Needs the extra `reference`.

Stable Diffusion's are diffusers' own. SCEdit's tuners are written out here from their published description.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel

from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.taesd import TAESDConfig
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
    hint = {key: value for key, value in asdict(own).items() if key not in ("return_rgbs", "use_rrdb")}  # PASD's alone
    return ControlNetModel(**encoder, **hint)


def vae(config: VAEConfig) -> AutoencoderKL:
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **asdict(config),
    )


def taesd(config: TAESDConfig) -> AutoencoderTiny:
    return AutoencoderTiny(**asdict(config))


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
def vae_outputs(vae: AutoencoderKL, given: Inputs) -> Arrays:
    """As `narrow.vae_outputs`."""
    posterior = vae.encode(nchw(2 * given.images - 1)).latent_dist
    return {
        "mean": nhwc(posterior.mean),
        "logvar": nhwc(posterior.logvar),
        "decoded": nhwc(vae.decode(nchw(given.latents) / vae.config.scaling_factor).sample),
    }


def run_diffusion(name: str) -> Arrays:
    config = UNETS[name]
    nets = randomise(unet(config)), randomise(controlnet(config, CONTROLNET), seed=1)
    return diffusion_outputs(*nets, inputs(config.cross_attention_dim))


def run_vae(name: str) -> Arrays:
    return vae_outputs(randomise(vae(VAES[name])), inputs())


@torch.no_grad()
def run_taesd(config: TAESDConfig) -> Arrays:
    """As `narrow.run_taesd`."""
    net, given = randomise(taesd(config)), inputs(factor=config.factor)
    return {
        "encoded": nhwc(net.encode(nchw(2 * given.images - 1)).latents),
        "decoded": nhwc(net.decode(nchw(4 * given.latents)).sample),
    }


class SCTuner(torch.nn.Module):
    """Channels-last tokens: skip + W2 GELU(W1 skip), with a hint skip + scale (hint + W2 GELU(W1 (skip + hint)))."""

    def __init__(self, channels: int, ratio: float):
        super().__init__()
        hidden = int(channels * ratio)
        self.tuner_op = torch.nn.ModuleDict(
            {"ln1": torch.nn.Linear(channels, hidden), "ln2": torch.nn.Linear(hidden, channels)}
        )

    def forward(self, skip: torch.Tensor, hint: torch.Tensor | None = None, scale: float = 1.0) -> torch.Tensor:
        x = skip if hint is None else skip + hint
        change = self.tuner_op["ln2"](F.gelu(self.tuner_op["ln1"](x)))
        return skip + scale * (change if hint is None else hint + change)


class CSCTuner(torch.nn.Module):
    """SCEdit with an image as condition, under its published names; tuner 0 belongs to the deepest skip."""

    def __init__(self, unet: UNetConfig, config: SCEditConfig):
        super().__init__()
        self.scale = config.control_scale
        first, *rest = config.hint_channels
        layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, first, 3, padding=1)]
        before = first
        for width in rest:
            layers += [torch.nn.SiLU(), torch.nn.Conv2d(before, before, 3, padding=1)]
            layers += [torch.nn.SiLU(), torch.nn.Conv2d(before, width, 3, padding=1, stride=2)]
            before = width
        self.pre_hint_blocks = torch.nn.Sequential(*layers)
        self.dense_hint_blocks = torch.nn.ModuleList()
        for channels, down in unet.skips:
            conv = torch.nn.Conv2d(before, channels, 3, padding=1, stride=2 if down else 1)
            self.dense_hint_blocks.append(torch.nn.Sequential(torch.nn.SiLU(), conv))
            before = channels
        self.lsc_tuner_blocks = torch.nn.ModuleList(SCTuner(c, config.ratio) for c in unet.skip_channels[::-1])

    def forward(self, images: torch.Tensor, skips: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Images NCHW, skips NHWC -> hints and edited skips, NHWC."""
        x, hints = self.pre_hint_blocks(images), []
        for block in self.dense_hint_blocks:
            x = block(x)
            hints.append(x.movedim(1, -1))
        last = len(skips) - 1
        edited = [
            self.lsc_tuner_blocks[last - i](s, h, self.scale) for i, (s, h) in enumerate(zip(skips, hints, strict=True))
        ]
        return hints, edited
