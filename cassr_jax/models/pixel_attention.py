"""PASD's pixel-aware cross-attention: the U-Net's up blocks attend to a ControlNet's residuals, position by position.

The residual that is added to a skip is also what the layer which consumes this skip attends to (arXiv 2308.14469).
Two variants are published (github.com/yangxy/PASD):

    full   behind each layer, a whole transformer of its own, whose context are the residual's tokens
    light  within each of the up blocks' transformers, behind the text's attention, one more attention to these tokens,
           which a linear layer has mapped before
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.attention import Attention, ImageGuide, Transformer2D, Unguided
from cassr_jax.models.layers import LayerNorm, Linear
from cassr_jax.models.unet import UNetConfig
from cassr_jax.typing import AnyContext, Context, FeatureMap, Features, KeyValue, Tokens


@dataclass(frozen=True)
class PixelAttentionConfig:
    """Which of the two variants it is; all widths are the U-Net's."""

    SHARED: ClassVar = ("block_out_channels", "layers_per_block", "up_block_types")
    """The fields of its U-Net that the U-Net beside it must share."""

    light: bool = False


class _Layers(nnx.Module):
    """The transformers of one up block of the full variant, one for each layer."""

    def __init__(self, layers: Sequence[tuple[int, int]], unet: UNetConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.pixel_attentions = nnx.List(
            Transformer2D(
                width,
                unet.skip_channels[skip],
                num_heads=unet.attention_head_dim,
                groups=unet.norm_num_groups,
                zero_out=True,
                dtype=dtype,
                rngs=rngs,
            )
            for width, skip in layers
        )

    def bind(self, contexts: Sequence[AnyContext]) -> list[ImageGuide]:
        transformers = zip(self.pixel_attentions, contexts, strict=True)
        return [BoundTransformer(each, each.key_value(context)) for each, context in transformers]


class _ExtraAttention(nnx.Module):
    """The addition to one transformer block of the light variant."""

    def __init__(self, features: int, context_dim: int, *, num_heads: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm2_plus = LayerNorm(features, dtype=dtype, rngs=rngs)
        self.attn2_plus = Attention(features, context_dim, num_heads=num_heads, zero_out=True, dtype=dtype, rngs=rngs)


class _ExtraTransformer(nnx.Module):
    """The additions to one transformer of the light variant."""

    def __init__(self, features: int, context_dim: int, *, num_heads: int, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.proj_in_plus = Linear(context_dim, context_dim, **kwargs)
        self.transformer_blocks = nnx.List([_ExtraAttention(features, context_dim, num_heads=num_heads, **kwargs)])

    def key_value(self, context: Context) -> KeyValue:
        return self.transformer_blocks[0].attn2_plus.key_value(self.proj_in_plus(context))

    def __call__(self, x: Tokens, key_value: KeyValue) -> Tokens:
        block = self.transformer_blocks[0]
        return x + block.attn2_plus(block.norm2_plus(x), key_value)


class _ExtraLayers(nnx.Module):
    """The additions to one up block of the light variant."""

    def __init__(self, layers: Sequence[tuple[int, int]], unet: UNetConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attentions = nnx.List(
            _ExtraTransformer(
                width, unet.skip_channels[skip], num_heads=unet.attention_head_dim, dtype=dtype, rngs=rngs
            )
            for width, skip in layers
        )

    def bind(self, contexts: Sequence[AnyContext]) -> list[ImageGuide]:
        if not self.attentions:  # a block without transformers
            return []
        transformers = zip(self.attentions, contexts, strict=True)
        return [BoundAttention(each, each.key_value(context)) for each, context in transformers]


@dataclass(frozen=True)
class BoundTransformer(Unguided):
    """A transformer of the full variant, with the keys and values of this step's residual."""

    transformer: Transformer2D
    key_value: KeyValue

    def after_layer(self, x: Features) -> Features:
        return self.transformer(x, self.key_value)


@dataclass(frozen=True)
class BoundAttention(Unguided):
    """An attention of the light variant, with the keys and values of this step's residual."""

    attention: _ExtraTransformer
    key_value: KeyValue

    def after_cross_attention(self, x: Tokens) -> Tokens:
        return self.attention(x, self.key_value)


class PixelAttention(nnx.Module):
    """The attentions of a U-Net to a ControlNet's residuals, under PASD's names.

    A new one changes nothing: the last layer of each branch is zero. PASD draws these layers at random.
    """

    def __init__(
        self, unet: UNetConfig, config: PixelAttentionConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ):
        self.config = unet
        kwargs = {"dtype": dtype, "rngs": rngs}
        blocks = (
            (_ExtraLayers(layers, unet, **kwargs) for layers in unet.up_transformers)
            if config.light
            else (_Layers(layers, unet, **kwargs) for layers in unet.up_layers)
        )
        self.up_blocks = nnx.List(blocks)

    def bind(self, residuals: Sequence[FeatureMap]) -> list[list[ImageGuide]]:
        """Guides for `UNet.decode` from the ControlNet's residual of every skip, after its zero convolutions."""
        contexts = [residual.reshape(len(residual), -1, residual.shape[-1]) for residual in residuals]
        return [
            block.bind([contexts[skip] for _, skip in layers])
            for block, layers in zip(self.up_blocks, self.config.up_layers, strict=True)
        ]
