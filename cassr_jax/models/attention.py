"""Attention and the transformer that Stable Diffusion's U-Net repeats."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cassr_jax.models.division import block_output, placed
from cassr_jax.models.dot_product import dot_product_attention
from cassr_jax.models.layers import GroupNorm, Identity, LayerNorm, Linear
from cassr_jax.typing import Context, Features, KeyValue, Tokens


class Attention(nnx.Module):
    """Multi-head attention with diffusers' names: queries from x, keys and values from a context.

    With `zero_out`, the output projection starts at zero and the layer contributes nothing until it is trained.
    """

    def __init__(
        self, query_dim: int, context_dim: int | None = None, *, num_heads: int,
        zero_out: bool = False, dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        context_dim = query_dim if context_dim is None else context_dim
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.num_heads = num_heads
        self.to_q = Linear(query_dim, query_dim, use_bias=False, **kwargs)
        self.to_k = Linear(context_dim, query_dim, use_bias=False, **kwargs)
        self.to_v = Linear(context_dim, query_dim, use_bias=False, **kwargs)
        self.to_out = nnx.List([Linear(query_dim, query_dim, zero=zero_out, **kwargs)])

    def key_value(self, context: Context) -> KeyValue:
        """Keys and values of a context (B, M, context_dim); compute them once for a context that stays the same."""
        return placed(self.to_k(context), self, "keys"), placed(self.to_v(context), self, "values")

    def __call__(self, x: Tokens, key_value: KeyValue | None = None) -> Tokens:
        """Attention to `key_value`; without it, self-attention."""
        key, value = self.key_value(x) if key_value is None else key_value
        query = placed(self.to_q(x), self, "queries")
        return placed(self.to_out[0](dot_product_attention(query, key, value, self.num_heads)), self, "branch")


class GEGLU(nnx.Module):
    """x W * GELU(x V), with the exact GELU."""

    def __init__(self, in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.proj = Linear(in_features, 2 * out_features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch in_features"]) -> Float[Array, "*batch out_features"]:
        # Two products, not one that is cut in halves: devices that divide its channels would have one half each.
        assert self.proj.bias is not None, "the layer has one"
        kernel, bias = (jnp.asarray(each[...], self.proj.dtype) for each in (self.proj.kernel, self.proj.bias))
        both = jnp.einsum("...i,igo->...go", x.astype(kernel.dtype), kernel.reshape(len(kernel), 2, -1))
        hidden, gate = jnp.moveaxis(both + bias.reshape(2, -1), -2, 0)
        return placed(hidden * jax.nn.gelu(gate, approximate=False), self, "hidden")


class FeedForward(nnx.Module):
    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.net = nnx.List(
            [
                GEGLU(features, 4 * features, dtype=dtype, rngs=rngs),
                Identity(),
                Linear(4 * features, features, dtype=dtype, rngs=rngs),
            ]
        )

    def __call__(self, x: Tokens) -> Tokens:
        for layer in self.net:
            x = layer(x)
        return placed(x, self, "branch")


@runtime_checkable
class ImageGuide(Protocol):
    """What one layer of an up block takes from pictures: a function for each place where a control scheme may attend.

    The first three places are within the transformer's block, the last one is behind the whole transformer; in a layer
    without a transformer there is the last one alone.
    """

    def before_self_attention(self, x: Tokens) -> Tokens: ...

    def after_self_attention(self, x: Tokens) -> Tokens: ...

    def after_cross_attention(self, x: Tokens) -> Tokens: ...

    def after_layer(self, x: Features) -> Features: ...


class Unguided:
    """A guide that takes nothing; control schemes replace the functions of the places where they attend."""

    def before_self_attention(self, x: Tokens) -> Tokens:
        return x

    def after_self_attention(self, x: Tokens) -> Tokens:
        return x

    def after_cross_attention(self, x: Tokens) -> Tokens:
        return x

    def after_layer(self, x: Features) -> Features:
        return x


UNGUIDED = Unguided()


class BasicTransformerBlock(nnx.Module):
    """Self-attention, text cross-attention and feed-forward, each a pre-norm residual branch.

    A guide adds a control scheme's attention to pictures between them.
    """

    def __init__(self, features: int, context_dim: int, *, num_heads: int, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.norm1 = LayerNorm(features, **kwargs)
        self.attn1 = Attention(features, num_heads=num_heads, **kwargs)
        self.norm2 = LayerNorm(features, **kwargs)
        self.attn2 = Attention(features, context_dim, num_heads=num_heads, **kwargs)
        self.norm3 = LayerNorm(features, **kwargs)
        self.ff = FeedForward(features, **kwargs)

    def __call__(self, x: Tokens, text: KeyValue, guide: ImageGuide = UNGUIDED) -> Tokens:
        x = guide.before_self_attention(x)
        x = guide.after_self_attention(x + self.attn1(self.norm1(x)))
        x = guide.after_cross_attention(x + self.attn2(self.norm2(x), text))
        return x + self.ff(self.norm3(x))


class Transformer2D(nnx.Module):
    """diffusers' `Transformer2DModel` with one block and 1x1 convolutions.

    With `zero_out`, its last layer starts at zero, and it returns its input until it is trained.
    """

    def __init__(
        self, features: int, context_dim: int, *, num_heads: int, groups: int,
        zero_out: bool = False, dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.norm = GroupNorm(groups, features, eps=1e-6, **kwargs)
        # Linear layers over channels are what the checkpoint's 1x1 convolutions compute.
        self.proj_in = Linear(features, features, **kwargs)
        self.transformer_blocks = nnx.List(
            [BasicTransformerBlock(features, context_dim, num_heads=num_heads, **kwargs)]
        )
        self.proj_out = Linear(features, features, zero=zero_out, **kwargs)

    def key_value(self, context: Context) -> KeyValue:
        """Keys and values of the cross-attention, of a text or of another context (B, M, context_dim)."""
        return self.transformer_blocks[0].attn2.key_value(context)

    def __call__(self, x: Features, context: KeyValue, guide: ImageGuide = UNGUIDED) -> Features:
        batch, height, width, channels = x.shape
        h = self.proj_in(self.norm(x).reshape(batch, height * width, channels))
        h = self.transformer_blocks[0](placed(h, self, "tokens"), context, guide)
        return block_output(x + self.proj_out(h).reshape(x.shape), self)
