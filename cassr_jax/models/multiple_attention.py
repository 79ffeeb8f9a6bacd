"""Multiple attention, the core of CasSR: the U-Net's up blocks attend to the reference and the LQ image.

In every transformer of the up blocks, before and after its self-attention:

    X'  = X  + Wo softmax(Q_r K_r^T / sqrt(d)) V_r      reference attention, K_r and V_r from the reference
    X'' = X' + Wo softmax(Q_l K_l^T / sqrt(d)) V_l      LR attention, K_l and V_l from the LQ image

Keys and values come from the ControlNet's features of the skip which the same layer consumes, so their resolution is
the layer's own. CasSR, arXiv 2403.11451, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.attention import Attention, Unguided
from cassr_jax.models.layers import LayerNorm
from cassr_jax.models.unet import UNetConfig
from cassr_jax.typing import FeatureMap, KeyValue, Scalar, Tokens


@dataclass(frozen=True)
class GuidanceSwitches:
    """Switches for the ways in which the two images reach the U-Net: all on in CasSR, some off in ablations."""

    reference_attention: bool = True
    lr_attention: bool = True
    residuals: bool = True

    @property
    def attention(self) -> bool:
        return self.reference_attention or self.lr_attention


class ImageAttention(nnx.Module):
    """One pre-norm residual branch: tokens attend to an image's features."""

    def __init__(self, features: int, context_dim: int, *, num_heads: int, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.norm = LayerNorm(features, **kwargs)
        self.norm_context = LayerNorm(context_dim, **kwargs)
        self.attn = Attention(features, context_dim, num_heads=num_heads, zero_out=True, **kwargs)

    def key_value(self, features: FeatureMap) -> KeyValue:
        tokens = features.reshape(features.shape[0], -1, features.shape[-1])
        return self.attn.key_value(self.norm_context(tokens))

    def __call__(self, x: Tokens, key_value: KeyValue, weight: float | Scalar = 1.0) -> Tokens:
        return x + jnp.asarray(weight, x.dtype) * self.attn(self.norm(x), key_value)


class ImageAttentionPair(nnx.Module):
    """Both image attentions of one transformer. The names `reference` and `lr` are parts of paths in weight files."""

    def __init__(self, features: int, context_dim: int, *, num_heads: int, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"num_heads": num_heads, "dtype": dtype, "rngs": rngs}
        self.reference = ImageAttention(features, context_dim, **kwargs)
        self.lr = ImageAttention(features, context_dim, **kwargs)


@dataclass(frozen=True)
class BoundPair(Unguided):
    """A pair of image attentions with the keys and values of this step's images; None for one switched off.

    `lq_weight` is how much the attention to the LQ image counts, 1 as in training.
    """

    pair: ImageAttentionPair
    reference: KeyValue | None
    lq: KeyValue | None
    lq_weight: float | Scalar = 1.0

    def before_self_attention(self, x: Tokens) -> Tokens:
        return x if self.reference is None else self.pair.reference(x, self.reference)

    def after_self_attention(self, x: Tokens) -> Tokens:
        return x if self.lq is None else self.pair.lr(x, self.lq, self.lq_weight)


class MultipleAttention(nnx.Module):
    """The image attentions of a U-Net; `up_blocks[i][j]` belongs to the j-th transformer of its up block i."""

    def __init__(self, unet: UNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = unet
        self.up_blocks = nnx.List(
            nnx.List(
                ImageAttentionPair(
                    width, unet.skip_channels[skip], num_heads=unet.attention_head_dim, dtype=dtype, rngs=rngs
                )
                for width, skip in transformers
            )
            for transformers in unet.up_transformers
        )

    def bind(
        self,
        lq_features: Sequence[FeatureMap],
        reference_features: Sequence[FeatureMap],
        switches: GuidanceSwitches = GuidanceSwitches(),
        lq_weight: float | Scalar = 1.0,
    ) -> list[list[BoundPair]]:
        """Guides for `UNet.decode` from the ControlNet's features of every skip, before its zero convolutions."""
        return [
            [
                BoundPair(
                    pair,
                    pair.reference.key_value(reference_features[skip]) if switches.reference_attention else None,
                    pair.lr.key_value(lq_features[skip]) if switches.lr_attention else None,
                    lq_weight,
                )
                for pair, (_, skip) in zip(pairs, transformers, strict=True)
            ]
            for pairs, transformers in zip(self.up_blocks, self.config.up_transformers, strict=True)
        ]
