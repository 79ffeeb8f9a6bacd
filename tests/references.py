"""The networks of `tests.narrow`, same weights, same inputs, in torch. Needs the extra `reference`.

Stable Diffusion's are diffusers' own. The image attention and SCEdit's tuners are written out here from their published
descriptions, as plainly as possible.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from tests.narrow import CONTROLNET, GUIDES, SCEDIT, SMALL, UNETS, VAES, Arrays, Inputs, inputs, skip_arrays
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


class Attention(torch.nn.Module):
    def __init__(self, features: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = torch.nn.Linear(features, features, bias=False)
        self.to_k = torch.nn.Linear(context, features, bias=False)
        self.to_v = torch.nn.Linear(context, features, bias=False)
        self.to_out = torch.nn.ModuleList([torch.nn.Linear(features, features)])

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            a.unflatten(-1, (self.heads, -1)).movedim(2, 1)
            for a in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).movedim(1, 2).flatten(2))


class ImageAttention(torch.nn.Module):
    """X + Wo softmax(Q K^T / sqrt(d)) V, Q from the normalised tokens, K and V from a normalised feature (NHWC)."""

    def __init__(self, features: int, context: int, heads: int):
        super().__init__()
        self.norm, self.norm_context = torch.nn.LayerNorm(features), torch.nn.LayerNorm(context)
        self.attn = Attention(features, context, heads)

    def forward(self, x: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        return x + self.attn(self.norm(x), self.norm_context(feature.flatten(1, 2)))


class ImageAttentionPair(torch.nn.Module):
    def __init__(self, features: int, context: int, heads: int):
        super().__init__()
        self.reference = ImageAttention(features, context, heads)
        self.lr = ImageAttention(features, context, heads)


class MultipleAttention(torch.nn.Module):
    """A pair for every transformer of the U-Net's up blocks, put into it by `guide`."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        heads, channels = config.attention_head_dim, config.skip_channels
        self.up_blocks = torch.nn.ModuleList(
            torch.nn.ModuleList(ImageAttentionPair(width, channels[skip], heads) for width, skip in block)
            for block in config.up_transformers
        )

    def guide(
        self, unet: UNet2DConditionModel, lr: list[torch.Tensor] | None, reference: list[torch.Tensor] | None
    ) -> None:
        """Give the U-Net's up transformers CasSR's order: reference, self, LR, text, feed-forward."""
        for block, pairs, transformers in zip(unet.up_blocks, self.up_blocks, self.config.up_transformers, strict=True):
            for transformer, pair, (_, skip) in zip(getattr(block, "attentions", ()), pairs, transformers, strict=True):
                _reorder(
                    transformer.transformer_blocks[0],
                    pair,
                    None if lr is None else lr[skip],
                    None if reference is None else reference[skip],
                )


def _reorder(
    block: torch.nn.Module, pair: ImageAttentionPair, lr: torch.Tensor | None, reference: torch.Tensor | None
) -> None:
    def forward(x: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: object) -> torch.Tensor:
        if reference is not None:
            x = pair.reference(x, reference)
        x = x + block.attn1(block.norm1(x))
        if lr is not None:
            x = pair.lr(x, lr)
        x = x + block.attn2(block.norm2(x), encoder_hidden_states=encoder_hidden_states)
        return x + block.ff(block.norm3(x))

    block.forward = forward


@torch.no_grad()
def run_guided() -> Arrays:
    """As `narrow.run_guided`, in float64: over so many attentions, torch's float32 is 1.4e-5 off on some processors."""
    net, attention = randomise(unet(SMALL)).double(), randomise(MultipleAttention(SMALL), seed=1).double()
    given = inputs(SMALL.cross_attention_dim)
    lr, reference = ([torch.from_numpy(a).double() for a in skip_arrays(SMALL, seed)] for seed in (1, 2))
    result = {}
    for name, switches in GUIDES.items():
        attention.guide(net, lr if switches.lr_attention else None, reference if switches.reference_attention else None)
        call = nchw(given.latents).double(), torch.from_numpy(given.timesteps), torch.from_numpy(given.context).double()
        result[name] = nhwc(net(*call).sample)
    return result


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


@torch.no_grad()
def run_scedit() -> Arrays:
    """As `narrow.run_scedit`."""
    tuner = randomise(CSCTuner(SMALL, SCEDIT))
    hints, edited = tuner(nchw(inputs().images), [torch.from_numpy(a) for a in skip_arrays(SMALL, seed=1)])
    result = {f"hint.{i}": hint.numpy() for i, hint in enumerate(hints)}
    return result | {f"skip.{i}": skip.numpy() for i, skip in enumerate(edited)}
