"""Stable Diffusion's U-Net (diffusers' `UNet2DConditionModel`), divided where CasSR and SCEdit intervene.

The network is called in two halves, so the changes between them are in plain sight:

    h, skips = unet.encode(latents, temb, text)            # the frozen half
    skips = tuner(skips, hints)                            # SCEdit edits skips,
    skips = [s + r for s, r in zip(skips, residuals)]      # a ControlNet adds to them,
    output = unet.decode(h, skips, temb, text, guides)     # and image guides attend inside the up blocks.

Values that do not depend on the latents (`embed_time`, `text_key_values`) are computed outside, once for all steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.attention import UNGUIDED, ImageGuide, Transformer2D
from cassr_jax.models.checks import check_depth, check_divisor, check_widths
from cassr_jax.models.division import block_output
from cassr_jax.models.layers import (
    Conv,
    Downsample,
    GroupNorm,
    ResnetBlock,
    TimestepEmbedding,
    Upsample,
    timestep_embedding,
)
from cassr_jax.typing import (
    FeatureList,
    FeatureMap,
    Features,
    KeyValue,
    Latents,
    TextEmbedding,
    TimeEmbedding,
    Timesteps,
)

_EPS = 1e-5


@dataclass(frozen=True)
class UNetConfig:
    """Widths of the U-Net, named as in diffusers' config.json; the defaults are Stable Diffusion 1.5's.

    `attention_head_dim` is the number of heads: the published name is wrong, but published files use it.
    """

    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_head_dim: int = 8
    cross_attention_dim: int = 768
    norm_num_groups: int = 32

    def __post_init__(self) -> None:
        check_depth("layers_per_block", self.layers_per_block)
        check_widths(self)
        for names, known in (
            (self.down_block_types, ("DownBlock2D", "CrossAttnDownBlock2D")),
            (self.up_block_types, ("UpBlock2D", "CrossAttnUpBlock2D")),
        ):
            if len(names) != len(self.block_out_channels):
                raise ValueError(
                    f"the U-Net's block types are {names}, expected {len(self.block_out_channels)}, one for each width"
                )
            if unknown := sorted(set(names) - set(known)):
                raise ValueError(f"the U-Net's block types hold {unknown}, expected some of {list(known)}")
        widths = self.block_out_channels
        if widths[0] % 2:
            raise ValueError(f"block_out_channels begin with {widths[0]}, expected an even number")  # sines and cosines
        kinds = [*zip(self.down_block_types, widths, strict=True), *zip(self.up_block_types, widths[::-1], strict=True)]
        attended = [width for kind, width in kinds if kind.startswith("CrossAttn")]
        check_divisor("attention_head_dim, the number of heads,", self.attention_head_dim, [*attended, widths[-1]])
        check_divisor("norm_num_groups", self.norm_num_groups, widths)

    @property
    def temb_channels(self) -> int:
        return 4 * self.block_out_channels[0]

    @property
    def skip_channels(self) -> tuple[int, ...]:
        """The channels of every skip, in the order of the down path."""
        return tuple(channels for channels, _ in self.skips)

    @property
    def skips(self) -> tuple[tuple[int, bool], ...]:
        """(channels, whether a downsampler makes it) of every skip, in the order of the down path."""
        result = [(self.block_out_channels[0], False)]
        for i, width in enumerate(self.block_out_channels):
            result += [(width, False)] * self.layers_per_block
            if i < len(self.block_out_channels) - 1:
                result.append((width, True))
        return tuple(result)

    @property
    def up_layers(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """(width, index of the consumed skip) of each layer, by up block."""
        index = len(self.skips)
        result = []
        for width in reversed(self.block_out_channels):
            indices = [index - 1 - j for j in range(self.layers_per_block + 1)]
            index = indices[-1]
            result.append(tuple((width, j) for j in indices))
        return tuple(result)

    @property
    def up_transformers(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The same of the layers that have transformers; a block without any has an empty tuple."""
        kinds = zip(self.up_block_types, self.up_layers, strict=True)
        return tuple(layers if kind == "CrossAttnUpBlock2D" else () for kind, layers in kinds)


class TextKeyValues(NamedTuple):
    """The text's keys and values for every transformer, by block."""

    down: list[list[KeyValue]]
    mid: list[KeyValue]
    up: list[list[KeyValue]]


class _Block(nnx.Module):
    """Resnets, each followed by a transformer if the block has transformers."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, attend: bool, config: UNetConfig,
        *, dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        kwargs = {"dtype": dtype, "rngs": rngs}
        groups = config.norm_num_groups
        self.resnets = nnx.List(
            ResnetBlock(i, out_channels, temb_channels=config.temb_channels, groups=groups, eps=_EPS, **kwargs)
            for i in in_channels
        )
        if attend:
            self.attentions = nnx.List(
                Transformer2D(
                    out_channels,
                    config.cross_attention_dim,
                    num_heads=config.attention_head_dim,
                    groups=groups,
                    **kwargs,
                )
                for _ in in_channels
            )

    def text_key_values(self, encoder_hidden_states: TextEmbedding) -> list[KeyValue]:
        return [a.key_value(encoder_hidden_states) for a in getattr(self, "attentions", ())]


class DownBlock(_Block):
    def __init__(
        self, in_channels: int, out_channels: int, config: UNetConfig, *, attend: bool, downsample: bool,
        dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        widths = [in_channels] + [out_channels] * (config.layers_per_block - 1)
        super().__init__(widths, out_channels, attend, config, dtype=dtype, rngs=rngs)
        if downsample:
            self.downsamplers = nnx.List([Downsample(out_channels, dtype=dtype, rngs=rngs)])

    def __call__(self, x: FeatureMap, temb: TimeEmbedding, text: list[KeyValue]) -> tuple[FeatureMap, FeatureList]:
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, temb)
            if text:
                x = self.attentions[i](x, text[i])
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(_Block):
    def __init__(self, features: int, config: UNetConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        super().__init__([features], features, True, config, **kwargs)
        self.resnets.append(
            ResnetBlock(
                features,
                features,
                temb_channels=config.temb_channels,
                groups=config.norm_num_groups,
                eps=_EPS,
                **kwargs,
            )
        )

    def __call__(self, x: Features, temb: TimeEmbedding, text: list[KeyValue]) -> Features:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, temb), text[0]), temb)


class UpBlock(_Block):
    def __init__(
        self, in_channels: int, out_channels: int, skip_channels: Sequence[int], config: UNetConfig,
        *, attend: bool, upsample: bool, dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        below = [in_channels] + [out_channels] * config.layers_per_block
        widths = [b + s for b, s in zip(below, skip_channels, strict=True)]
        super().__init__(widths, out_channels, attend, config, dtype=dtype, rngs=rngs)
        if upsample:
            self.upsamplers = nnx.List([Upsample(out_channels, dtype=dtype, rngs=rngs)])

    def __call__(
        self,
        x: FeatureMap,
        skips: FeatureList,
        temb: TimeEmbedding,
        text: list[KeyValue],
        guides: Sequence[ImageGuide],
    ) -> FeatureMap:
        """Takes its skips from the end of the list; the blocks above find theirs in the rest."""
        for i, resnet in enumerate(self.resnets):
            guide = guides[i] if guides else UNGUIDED
            x = resnet(jnp.concatenate([x, skips.pop()], axis=-1), temb)
            if text:
                x = self.attentions[i](x, text[i], guide)
            x = guide.after_layer(x)
        if hasattr(self, "upsamplers"):
            height, width = skips[-1].shape[1:3]
            x = self.upsamplers[0](x, (height, width))
        return x


class UNetEncoder(nnx.Module):
    """The half that the U-Net and the ControlNet share: conv_in, time embedding, down blocks, mid block."""

    def __init__(self, config: UNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        widths = config.block_out_channels
        self.config = config
        self.dtype = dtype
        self.conv_in = Conv(config.in_channels, widths[0], 3, **kwargs)
        self.time_embedding = TimestepEmbedding(widths[0], config.temb_channels, **kwargs)
        self.down_blocks = nnx.List(
            DownBlock(before, width, config, attend="CrossAttn" in kind, downsample=i < len(widths) - 1, **kwargs)
            for i, ((before, width), kind) in enumerate(
                zip(pairwise((widths[0], *widths)), config.down_block_types, strict=True)
            )
        )
        self.mid_block = MidBlock(widths[-1], config, **kwargs)

    def embed_time(self, timesteps: Timesteps) -> TimeEmbedding:
        """Timesteps in [0, 999] -> embeddings of 4 times the first width."""
        return self.time_embedding(timestep_embedding(timesteps, self.config.block_out_channels[0]))

    def text_key_values(self, encoder_hidden_states: TextEmbedding) -> TextKeyValues:
        """Keys and values of a text embedding for every transformer."""
        down = [block.text_key_values(encoder_hidden_states) for block in self.down_blocks]
        return TextKeyValues(down, self.mid_block.text_key_values(encoder_hidden_states), [])

    def _encode(
        self, x: Latents, temb: TimeEmbedding, text: TextKeyValues, hint: FeatureMap | None = None
    ) -> tuple[FeatureMap, FeatureList]:
        x = self.conv_in(x)
        if hint is not None:
            x = x + hint
        x = block_output(x, self)
        skips = [x]
        for block, key_values in zip(self.down_blocks, text.down, strict=True):
            x, made = block(x, temb, key_values)
            skips += made
        return self.mid_block(x, temb, text.mid), skips


class UNet(UNetEncoder):
    """Noisy latents, timesteps and text -> a prediction of the latents' shape, in the compute dtype."""

    def __init__(self, config: UNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        kwargs = {"dtype": dtype, "rngs": rngs}
        widths = config.block_out_channels[::-1]
        skips = list(config.skip_channels)
        blocks = []
        for i, ((below, width), kind) in enumerate(
            zip(pairwise((widths[0], *widths)), config.up_block_types, strict=True)
        ):
            taken = [skips.pop() for _ in range(config.layers_per_block + 1)]
            upsample = i < len(widths) - 1
            blocks.append(UpBlock(below, width, taken, config, attend="Cross" in kind, upsample=upsample, **kwargs))
        self.up_blocks = nnx.List(blocks)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], eps=_EPS, **kwargs)
        self.conv_out = Conv(widths[-1], config.out_channels, 3, **kwargs)

    def text_key_values(self, encoder_hidden_states: TextEmbedding) -> TextKeyValues:
        up = [block.text_key_values(encoder_hidden_states) for block in self.up_blocks]
        return super().text_key_values(encoder_hidden_states)._replace(up=up)

    def encode(self, latents: Latents, temb: TimeEmbedding, text: TextKeyValues) -> tuple[FeatureMap, FeatureList]:
        """The middle and the skips, shallowest first."""
        return self._encode(latents, temb, text)

    def decode(
        self,
        h: FeatureMap,
        skips: Sequence[FeatureMap],
        temb: TimeEmbedding,
        text: TextKeyValues,
        guides: Sequence[Sequence[ImageGuide]] | None = None,
    ) -> Latents:
        """The prediction from the middle and the skips.

        `guides` holds one for each layer, by up block; a block without guides has an empty sequence.
        """
        left = list(skips)
        for i, block in enumerate(self.up_blocks):
            h = block(h, left, temb, text.up[i], guides[i] if guides else ())
        return self.conv_out(nnx.silu(self.conv_norm_out(h)))

    def __call__(self, latents: Latents, timesteps: Timesteps, encoder_hidden_states: TextEmbedding) -> Latents:
        temb, text = self.embed_time(timesteps), self.text_key_values(encoder_hidden_states)
        h, skips = self.encode(latents, temb, text)
        return self.decode(h, skips, temb, text)
