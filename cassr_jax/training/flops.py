"""The work of a training step, counted twice: by hand from the configurations, and in the traced program.

Only the products of convolutions and matrices count, with two FLOPs for each multiplication of values; the zeros around
and between the values of a convolution do not count. A layer costs F forward.
Backward it costs F again if a gradient passes to its input, and F again if its weights train. A product of two
activations, as in attention, costs F for each of the two that a gradient reaches. Parts that no gradient reaches cost F
alone: the frozen U-Net's encoder, the autoencoder's encoder, the text encoder. The count by hand omits work that is
repeated to save memory.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jax.extend import core

from cassr_jax.config import TrainConfig
from cassr_jax.errors import InputError
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.sharding.costs import taps_on_values
from cassr_jax.typing import Configs
from cassr_jax.weights.configs import TextConfig


@dataclass(frozen=True)
class Work:
    """The FLOPs of a part: forward, backward to its inputs, and backward to its weights."""

    forward: float = 0.0
    inputs: float = 0.0
    weights: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.inputs + other.inputs, self.weights + other.weights)

    def __mul__(self, times: float) -> "Work":
        return Work(self.forward * times, self.inputs * times, self.weights * times)

    @property
    def total(self) -> float:
        return self.forward + self.inputs + self.weights


@dataclass(frozen=True)
class Pass:
    """The way of the gradient through a part: whether the weights train, and whether it must reach the input."""

    trains: bool = False
    onwards: bool = False

    @property
    def inside(self) -> "Pass":
        """The pass in a later layer of the part, through which the gradient must reach the earlier layers."""
        return Pass(self.trains, self.onwards or self.trains)


def step_work(config: TrainConfig, kinds: Configs, *, latents: bool) -> dict[str, Work]:
    """The work of one example, by part, in stage `scedit` or `cassr` trained as in the paper (no `start_fraction`).

    Args:
        config: the stage; `data.crop_size` is the side of the pictures.
        kinds: the configuration of every network, as in `Networks.configs`.
        latents: whether the data hold the target's latents, which spares the autoencoder.

    Raises:
        InputError: the stage is another one.
    """
    unet, vae, text = kinds["unet"], kinds["vae"], kinds["text_encoder"]
    side = config.data.crop_size
    tokens = text.num_tokens if isinstance(text, LearnedContextConfig) else text.max_position_embeddings
    rows = side // vae.factor
    parts = {} if latents else {"autoencoder, encoder": _vae_encoder(vae, side)}
    parts["text encoder, both prompts"] = _text(text) * 2
    parts["U-Net, encoder and middle"] = _encoder(unet, rows, tokens, Pass())
    parts["U-Net, decoder"] = _decoder(unet, rows, tokens, Pass(onwards=True))
    if config.stage == "scedit":
        parts["SCEdit"] = _scedit(unet, kinds["scedit"].own, side)
    elif config.stage == "cassr":
        parts["ControlNet, both images"] = _controlnet(unet, kinds["controlnet"].own, side, rows, tokens)
        parts["multiple attention"] = _multiple_attention(unet, rows)
    else:
        raise InputError(f"stage is {config.stage}, expected scedit or cassr: no other is counted by hand")
    return parts


def traced_flops(jaxpr: core.Jaxpr) -> float:
    """What the convolutions and matrix products of a traced function cost on all devices together.

    The body of a loop counts as often as it runs. XLA's own count takes it once, and so most of the attention at 512 px
    for nothing; on a GPU it leaves out what a library computes.
    """
    return sum(map(_equation, jaxpr.eqns))


def _equation(equation: Any) -> float:
    params, name = equation.params, equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    if name == "conv_general_dilated":
        numbers, (source, kernel) = params["dimension_numbers"], (var.aval.shape for var in equation.invars)
        out = equation.outvars[0].aval.shape
        total = 2.0 * math.prod(out[i] for i in numbers.out_spec[:2]) * kernel[numbers.rhs_spec[1]]
        for axis, (i, o, k) in enumerate(
            zip(numbers.lhs_spec[2:], numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)
        ):
            stride, spread, holes = (params[key][axis] for key in ("window_strides", "rhs_dilation", "lhs_dilation"))
            total *= taps_on_values(source[i], out[o], kernel[k], stride, spread, holes, params["padding"][axis][0])
        return total
    if name == "cond":  # one branch runs; where the device decides, the last is the form for any device
        costs = [traced_flops(branch.jaxpr) for branch in params["branches"]]
        return costs[-1] if params.get("branches_platforms") else max(costs)
    # Within `shard_map`, shapes are those of one device.
    times = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
    return times * sum(map(traced_flops, core.jaxprs_in_params(params)))


def _product(multiplications: float, through: Pass) -> Work:
    flops = 2.0 * multiplications
    return Work(flops, flops * through.onwards, flops * through.trains)


def _attend(queries: int, keys: int, channels: int, *, to_queries: bool, to_keys: bool) -> Work:
    """Q K^T and the weighted sum of V; a gradient to the queries also passes through the sum's weights."""
    flops = 2.0 * 2 * queries * keys * channels
    return Work(flops, flops * ((to_queries or to_keys) + to_keys))


def _taps(rows: int, stride: int = 1) -> int:
    """How often the taps of a 3x3 convolution with a square result of `rows` meet a value, not a zero of the padding.

    With stride 2 and an even side only one edge has taps beyond the input, whichever edge is padded.
    """
    return (3 * rows - (2 if stride == 1 else 1)) ** 2


def _resnet(rows: int, before: int, after: int, temb: int, through: Pass) -> Work:
    work = _product(_taps(rows) * before * after, through) + _product(_taps(rows) * after * after, through.inside)
    if before != after:
        work += _product(rows**2 * before * after, through)
    return work + _product(temb * after, Pass(through.trains, through.trains))


def _transformer(area: int, width: int, tokens: int, context: int, through: Pass) -> Work:
    """A transformer, where a gradient reaches the text's keys and values only to train their weights."""
    inside = through.inside
    linears = (
        3 + 1 + 2 + 12 + 1
    )  # self-attention's q, k, v and out; cross-attention's q and out; feed-forward; proj_out
    work = _product(area * width**2, through) + _product(area * linears * width**2, inside)
    work += _product(2 * tokens * context * width, Pass(through.trains))
    work += _attend(area, area, width, to_queries=inside.onwards, to_keys=inside.onwards)
    return work + _attend(area, tokens, width, to_queries=inside.onwards, to_keys=through.trains)


def _time(unet: UNetConfig, trains: bool) -> Work:
    width, temb = unet.block_out_channels[0], unet.temb_channels
    return _product(width * temb, Pass(trains)) + _product(temb**2, Pass(trains, trains))


def _encoder(unet: UNetConfig, rows: int, tokens: int, through: Pass) -> Work:
    widths, temb, context = unet.block_out_channels, unet.temb_channels, unet.cross_attention_dim
    work = _time(unet, through.trains) + _product(_taps(rows) * unet.in_channels * widths[0], through)
    through = through.inside
    for level, (before, width) in enumerate(pairwise((widths[0], *widths))):
        side = rows >> level
        for layer in range(unet.layers_per_block):
            work += _resnet(side, width if layer else before, width, temb, through)
            if "CrossAttn" in unet.down_block_types[level]:
                work += _transformer(side**2, width, tokens, context, through)
        if level < len(widths) - 1:
            work += _product(_taps(side // 2, stride=2) * width**2, through)
    side = rows >> (len(widths) - 1)
    middle = _resnet(side, widths[-1], widths[-1], temb, through) * 2
    return work + middle + _transformer(side**2, widths[-1], tokens, context, through)


def _decoder(unet: UNetConfig, rows: int, tokens: int, through: Pass) -> Work:
    widths, skips, work = unet.block_out_channels[::-1], list(unet.skip_channels), Work()
    below = widths[0]
    for block, width in enumerate(widths):
        side = rows >> (len(widths) - 1 - block)
        for _ in range(unet.layers_per_block + 1):
            work += _resnet(side, below + skips.pop(), width, unet.temb_channels, through)
            if "CrossAttn" in unet.up_block_types[block]:
                work += _transformer(side**2, width, tokens, unet.cross_attention_dim, through)
            below = width
        if block < len(widths) - 1:
            work += _product(_taps(2 * side) * width**2, through)
    return work + _product(_taps(rows) * widths[-1] * unet.out_channels, through)


def _convolutions(widths: list[tuple[int, int, int]], through: Pass) -> Work:
    """Successive 3x3 convolutions, each given as (taps on values, channels in, channels out)."""
    work = Work()
    for taps, before, after in widths:
        work += _product(taps * before * after, through)
        through = through.inside
    return work


def _scedit(unet: UNetConfig, own: SCEditConfig, side: int) -> Work:
    hints, layers = (
        own.hint_channels,
        [(_taps(side), 3, own.hint_channels[0]), (_taps(side), *own.hint_channels[:1] * 2)],
    )
    for i, (before, after) in enumerate(pairwise(hints), 1):
        layers.append((_taps(side >> i, stride=2), before, after))
        if i < len(hints) - 1:
            layers.append((_taps(side >> i), after, after))
    rows, before, work = side >> (len(hints) - 1), hints[-1], Work()
    for channels, halved in unet.skips:
        rows >>= halved
        layers.append((_taps(rows, stride=1 + halved), before, channels))
        before = channels
        work += _product(rows**2 * 2 * channels * int(channels * own.ratio), Pass(True, True))
    return work + _convolutions(layers, Pass(trains=True))


def _controlnet(unet: UNetConfig, own: ControlNetConfig, side: int, rows: int, tokens: int) -> Work:
    """The ControlNet on both images, which share the text's keys and values and the time embedding."""
    trained = Pass(trains=True)
    hints = own.conditioning_embedding_out_channels
    layers = [(_taps(side), own.conditioning_channels, hints[0])]
    for i, (before, after) in enumerate(pairwise(hints), 1):
        layers += [(_taps(side >> (i - 1)), before, before), (_taps(side >> i, stride=2), before, after)]
    layers.append((_taps(rows), hints[-1], unet.block_out_channels[0]))
    work = _convolutions(layers, trained) + _encoder(unet, rows, tokens, trained)
    level = 0
    for channels, halved in unet.skips:
        level += halved
        work += _product((rows >> level) ** 2 * channels**2, trained.inside)
    middle = unet.block_out_channels[-1]
    both = (work + _product((rows >> level) ** 2 * middle**2, trained.inside)) * 2
    widths = [
        width
        for kind, width in zip(unet.down_block_types, unet.block_out_channels, strict=True)
        if "CrossAttn" in kind
        for _ in range(unet.layers_per_block)
    ]
    once = _product(2 * tokens * unet.cross_attention_dim * sum([*widths, middle]), trained) + _time(unet, True)
    return both + once * -1


def _multiple_attention(unet: UNetConfig, rows: int) -> Work:
    """Two attentions in every transformer of the up blocks, with keys and values from an image's feature."""
    trained, work = Pass(True, True), Work()
    for block, transformers in enumerate(unet.up_transformers):
        area = (rows >> (len(unet.up_transformers) - 1 - block)) ** 2
        for width, skip in transformers:
            channels = unet.skip_channels[skip]
            one = _product(area * 2 * width**2, trained) + _product(area * 2 * channels * width, trained)
            work += (one + _attend(area, area, width, to_queries=True, to_keys=True)) * 2
    return work


def _vae_encoder(vae: VAEConfig, side: int) -> Work:
    widths, frozen = vae.block_out_channels, Pass()
    work = _product(_taps(side) * vae.in_channels * widths[0], frozen)
    for level, (before, width) in enumerate(pairwise((widths[0], *widths))):
        rows = side >> level
        for layer in range(vae.layers_per_block):
            work += _resnet(rows, width if layer else before, width, 0, frozen)
        if level < len(widths) - 1:
            work += _product(_taps(rows // 2, stride=2) * width**2, frozen)
    rows, width, out = side // vae.factor, widths[-1], 2 * vae.latent_channels
    area = rows**2
    work += _resnet(rows, width, width, 0, frozen) * 2
    if vae.mid_block_add_attention:
        work += _product(area * 4 * width**2, frozen) + _attend(area, area, width, to_queries=False, to_keys=False)
    return work + _product(_taps(rows) * width * out + area * out**2, frozen)


def _text(text: TextConfig) -> Work:
    if isinstance(text, LearnedContextConfig):
        return Work()  # a lookup has no products
    length, width = text.max_position_embeddings, text.hidden_size
    layer = _product(length * (4 * width**2 + 2 * width * text.intermediate_size), Pass())
    layer += _attend(length, length, width, to_queries=False, to_keys=False)
    return layer * text.num_hidden_layers
