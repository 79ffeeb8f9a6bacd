"""CasSR's denoisers in torch, in float64, from the papers' equations. Needs the extra `reference`.

The U-Net and the ControlNet are diffusers' own. What no program publishes is written here as plainly as it can be said:
the two images are read one after the other, each attention is softmax(Q K^T / sqrt(d)) V of its own heads, and which
layer reads which feature follows from how diffusers' up blocks consume their skips. All tensors are NCHW; images are in
[-1, 1].
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn

from cassr_jax.models.multiple_attention import GuidanceSwitches
from tests import narrow
from tests.narrow import Arrays
from tests.narrow_denoisers import CONFIG, GUIDANCE_SCALE, SEEDS, SWITCHES, WHOLE, given
from tests.references import CSCTuner, controlnet, nchw, nhwc, randomise, unet

Tensor = torch.Tensor


class ImageAttention(nn.Module):
    """X + Wo softmax(Q K^T / sqrt(d)) V; Q from the normalised tokens X, K and V from a normalised image feature."""

    def __init__(self, features: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.norm_context = nn.LayerNorm(features), nn.LayerNorm(context)
        self.attn = nn.ModuleDict(
            {
                "to_q": nn.Linear(features, features, bias=False),
                "to_k": nn.Linear(context, features, bias=False),
                "to_v": nn.Linear(context, features, bias=False),
                "to_out": nn.ModuleList([nn.Linear(features, features)]),
            }
        )

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        source = self.norm_context(feature.flatten(2).transpose(1, 2))
        q, k, v = self.attn["to_q"](self.norm(x)), self.attn["to_k"](source), self.attn["to_v"](source)
        heads = []
        for q_i, k_i, v_i in zip(*(y.chunk(self.heads, dim=-1) for y in (q, k, v)), strict=True):
            weights = torch.softmax(q_i @ k_i.transpose(1, 2) / q_i.shape[-1] ** 0.5, dim=-1)
            heads.append(weights @ v_i)
        return x + self.attn["to_out"][0](torch.cat(heads, dim=-1))


class MultipleAttention(nn.Module):
    """A reference attention and an LR attention for every transformer of a U-Net's up blocks."""

    def __init__(self, unet: UNet2DConditionModel, channels: Sequence[int]):
        """`channels` of the features, one for every skip, shallowest first."""
        super().__init__()
        self.up_blocks = nn.ModuleList(nn.ModuleList() for _ in unet.up_blocks)
        for block, transformer, skip in transformers_and_skips(unet, len(channels)):
            sizes = transformer.norm1.normalized_shape[0], channels[skip], transformer.attn1.heads
            pair = nn.ModuleDict({"reference": ImageAttention(*sizes), "lr": ImageAttention(*sizes)})
            self.up_blocks[block].append(pair)

    @contextmanager
    def inside(
        self, unet: UNet2DConditionModel, lr: list[Tensor], reference: list[Tensor], switches: GuidanceSwitches
    ) -> Iterator[None]:
        """The U-Net with these attentions: reference, self, LR, text, feed-forward."""
        pairs = [pair for block in self.up_blocks for pair in block]
        places = list(transformers_and_skips(unet, len(lr)))
        for pair, (_, transformer, skip) in zip(pairs, places, strict=True):
            transformer.forward = partial(
                _guided_block,
                transformer,
                partial(pair["reference"], feature=reference[skip]) if switches.reference_attention else nn.Identity(),
                partial(pair["lr"], feature=lr[skip]) if switches.lr_attention else nn.Identity(),
            )
        yield
        for _, transformer, _ in places:
            del transformer.forward


def _guided_block(
    block: Any, attend_reference: Any, attend_lr: Any, x: Tensor, encoder_hidden_states: Tensor, **_: Any
) -> Tensor:
    x = attend_reference(x)
    x = x + block.attn1(block.norm1(x))
    x = attend_lr(x)
    x = x + block.attn2(block.norm2(x), encoder_hidden_states=encoder_hidden_states)
    return x + block.ff(block.norm3(x))


def transformers_and_skips(unet: UNet2DConditionModel, skips: int) -> Iterator[tuple[int, Any, int]]:
    """(up block, transformer block, skip) wherever a transformer follows the resnet that consumes a skip."""
    left = list(range(skips))
    for number, block in enumerate(unet.up_blocks):
        for i, _ in enumerate(block.resnets):
            skip = left.pop()
            if hasattr(block, "attentions"):
                yield number, block.attentions[i].transformer_blocks[0], skip


class Read(NamedTuple):
    """What a ControlNet makes of one image: its features before the zero convolutions, and what comes after them."""

    features: list[Tensor]
    residuals: list[Tensor]
    middle: Tensor


def read(controlnet: ControlNetModel, latents: Tensor, timesteps: Tensor, text: Tensor, image: Tensor) -> Read:
    features: list[Tensor] = []
    hooks = [
        conv.register_forward_pre_hook(lambda _, args: features.append(args[0]))
        for conv in controlnet.controlnet_down_blocks
    ]
    residuals, middle = controlnet(latents, timesteps, text, (image + 1) / 2, return_dict=False)
    for hook in hooks:
        hook.remove()
    return Read(features, list(residuals), middle)


def skips_of(unet: UNet2DConditionModel, *call: Tensor) -> list[Tensor]:
    """The skips of a U-Net, shallowest first."""
    skips: list[Tensor] = []
    hooks = [unet.conv_in.register_forward_hook(lambda module, args, output: skips.append(output))]
    hooks += [
        block.register_forward_hook(lambda module, args, output: skips.extend(output[1])) for block in unet.down_blocks
    ]
    unet(*call)
    for hook in hooks:
        hook.remove()
    return skips


def controlled(unet: UNet2DConditionModel, call: tuple[Tensor, ...], residuals: list[Tensor], middle: Tensor) -> Tensor:
    return unet(*call, down_block_additional_residuals=residuals, mid_block_additional_residual=middle).sample


@torch.no_grad()
def predict_base(unet: UNet2DConditionModel, *call: Tensor) -> Tensor:
    """`call`: latents, timesteps, text. Images that follow are not read."""
    return unet(*call[:3]).sample


@torch.no_grad()
def predict_scedit(unet: UNet2DConditionModel, tuner: CSCTuner, *call: Tensor) -> Tensor:
    """`call`: latents, timesteps, text, image."""
    *call, image = call
    skips = skips_of(unet, *call)
    _, edited = tuner((image + 1) / 2, [skip.movedim(1, -1) for skip in skips])
    changes = [new.movedim(-1, 1) - skip for new, skip in zip(edited, skips, strict=True)]
    return controlled(unet, tuple(call), changes, torch.zeros((), dtype=image.dtype))


@torch.no_grad()
def predict_controlnet(unet: UNet2DConditionModel, controlnet: ControlNetModel, *call: Tensor) -> Tensor:
    """`call`: latents, timesteps, text, image."""
    found = read(controlnet, *call)
    return controlled(unet, call[:-1], found.residuals, found.middle)


@torch.no_grad()
def predict_cassr(
    unet: UNet2DConditionModel,
    controlnet: ControlNetModel,
    attention: MultipleAttention,
    *call: Tensor,
    switches: GuidanceSwitches = WHOLE,
) -> Tensor:
    """`call`: latents, timesteps, text, LR image enlarged, reference."""
    *call, lq, reference = call
    lr, ref = (read(controlnet, *call, image) for image in (lq, reference))
    with attention.inside(unet, lr.features, ref.features, switches):
        if not switches.residuals:
            return unet(*call).sample
        residuals = [l + r for l, r in zip(lr.residuals, ref.residuals, strict=True)]  # noqa: E741
        return controlled(unet, tuple(call), residuals, lr.middle + ref.middle)


def multiple_attention(unet: UNet2DConditionModel, controlnet: ControlNetModel) -> MultipleAttention:
    return MultipleAttention(unet, [conv.in_channels for conv in controlnet.controlnet_down_blocks])


def guided(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: away from the negative prompt's prediction, past the positive one's."""
    return (1 - scale) * negative + scale * positive


def run(kind: str, switches: str = "whole") -> Arrays:
    """As `narrow_denoisers.run`."""
    predict: Any
    net = randomise(unet(CONFIG), SEEDS["unet"])
    control = randomise(controlnet(CONFIG, narrow.CONTROLNET), SEEDS["controlnet"])
    if kind == "base":
        networks, predict = (net,), predict_base
    elif kind == "scedit":
        networks = net, randomise(CSCTuner(CONFIG, narrow.SCEDIT), SEEDS["scedit"])
        predict = predict_scedit
    elif kind == "controlnet":
        networks, predict = (net, control), predict_controlnet
    else:
        networks = net, control, randomise(multiple_attention(net, control), SEEDS["multiple_attention"])
        predict = partial(predict_cassr, switches=SWITCHES[switches])
    networks = [network.double() for network in networks]

    x = given()
    latents, context = nchw(x.latents).double(), torch.from_numpy(x.context).double()
    images = [nchw(image).double() for image in x.images(kind)]
    timestep, timesteps = torch.from_numpy(x.timestep), torch.from_numpy(x.timesteps)
    negative, positive = (predict(*networks, latents, timestep, text, *images) for text in context.chunk(2))
    return {
        "sampling": nhwc(torch.cat([negative, positive])),
        "guided": nhwc(guided(negative, positive, GUIDANCE_SCALE)),
        "training": nhwc(predict(*networks, latents, timesteps, context[1:3], *images)),
    }
