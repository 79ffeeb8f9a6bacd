"""The text encoder of Stable Diffusion 1.5 (CLIP ViT-L/14, Radford et al. 2021), and a learned stand-in for it.

Attribute paths equal those of transformers' `CLIPTextModel`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cassr_jax.models.checks import check_depth, check_divisor, check_widths
from cassr_jax.models.initializers import EMBEDDING, NORMAL, ONES, ZEROS
from cassr_jax.models.layers import Linear
from cassr_jax.typing import AnyFloat, TokenIds, Tokens


@dataclass(frozen=True)
class CLIPTextConfig:
    """Field names and meanings of transformers' `config.json`; the defaults are Stable Diffusion 1.5's."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"  # or "gelu", the exact one, as in OpenCLIP's encoders
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_depth("num_hidden_layers", self.num_hidden_layers)
        check_widths(self)
        check_divisor("num_attention_heads", self.num_attention_heads, [self.hidden_size])
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}, expected one of {sorted(ACTIVATIONS)}")


def quick_gelu(x: AnyFloat) -> AnyFloat:
    """OpenAI's sigmoid approximation of GELU, which CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: AnyFloat) -> AnyFloat:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


class CLIPLayerNorm(nnx.LayerNorm):
    """Layer normalisation over the hidden axis; statistics in float32."""

    def __init__(self, config: CLIPTextConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(
            config.hidden_size,
            epsilon=config.layer_norm_eps,
            use_fast_variance=False,
            scale_init=ONES,
            bias_init=ZEROS,
            dtype=dtype,
            rngs=rngs,
        )


class CLIPAttention(nnx.Module):
    """Causal self-attention; softmax in float32."""

    def __init__(self, config: CLIPTextConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.k_proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.v_proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.q_proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out_proj = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        batch, length, width = x.shape
        q, k, v = (
            proj(x).reshape(batch, length, self.heads, -1) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # each (B, L, heads, head width)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        causal = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1).astype(v.dtype)
        return self.out_proj(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, length, width))


class CLIPMLP(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        return self.fc2(self.activation(self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: CLIPTextConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.self_attn = CLIPAttention(config, dtype=dtype, rngs=rngs)
        self.layer_norm1 = CLIPLayerNorm(config, dtype=dtype, rngs=rngs)
        self.mlp = CLIPMLP(config, dtype=dtype, rngs=rngs)
        self.layer_norm2 = CLIPLayerNorm(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [CLIPEncoderLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )

    def __call__(self, x: Tokens) -> Tokens:
        for layer in self.layers:
            x = layer(x)
        return x


class CLIPTextEmbeddings(nnx.Module):
    """Token embedding plus position embedding."""

    def __init__(self, config: CLIPTextConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"embedding_init": EMBEDDING, "dtype": dtype, "rngs": rngs}
        self.token_embedding = nnx.Embed(config.vocab_size, config.hidden_size, **kwargs)
        self.position_embedding = nnx.Embed(config.max_position_embeddings, config.hidden_size, **kwargs)
        self.max_length = config.max_position_embeddings

    def __call__(self, ids: TokenIds) -> Float[Array, "batch tokens hidden"]:
        length = ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"found {length} tokens, expected at most {self.max_length}, one for each position")
        return self.token_embedding(jnp.asarray(ids)) + self.position_embedding(jnp.arange(length))


class CLIPTextTransformer(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.embeddings = CLIPTextEmbeddings(config, dtype=dtype, rngs=rngs)
        self.encoder = CLIPEncoder(config, dtype=dtype, rngs=rngs)
        self.final_layer_norm = CLIPLayerNorm(config, dtype=dtype, rngs=rngs)

    def __call__(self, ids: TokenIds) -> Float[Array, "batch tokens hidden"]:
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))


class CLIPTextModel(nnx.Module):
    """Token ids -> the last hidden state after the final layer norm.

    No padding mask: Stable Diffusion attends to its padding tokens too, under the causal mask alone.
    """

    def __init__(self, config: CLIPTextConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.text_model = CLIPTextTransformer(config, dtype=dtype, rngs=rngs)

    def __call__(self, ids: TokenIds) -> Float[Array, "batch tokens hidden"]:
        return self.text_model(ids)


ContextIds = Int[Array | np.ndarray, "batch *one"]


@dataclass(frozen=True)
class LearnedContextConfig:
    """The config of a learned context: context 0 is the empty prompt, context 1 is `prompt`, used in training."""

    num_contexts: int = 2
    num_tokens: int = 8
    hidden_size: int = 128
    prompt: str = "clean, high-resolution"

    def __post_init__(self) -> None:
        check_widths(self)
        if self.num_contexts < len(self.prompts):
            raise ValueError(f"num_contexts is {self.num_contexts}, expected at least {len(self.prompts)}")

    @property
    def prompts(self) -> tuple[str, str]:
        """The prompts that the contexts stand for, in order."""
        return "", self.prompt


class LearnedContext(nnx.Module):
    """A table of contexts that replaces a text encoder if the prompts are fixed.

    ids (B,) or (B, 1) int32, below `num_contexts` -> (B, num_tokens, hidden_size). It starts as unit normal, the scale
    of CLIP's normalised output. An id out of range gives NaN, never another prompt's context.
    """

    def __init__(self, config: LearnedContextConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        shape = (config.num_contexts, config.num_tokens, config.hidden_size)
        self.contexts = nnx.Param(NORMAL(rngs.params(), shape))
        self.dtype = dtype

    def __call__(self, ids: ContextIds) -> Float[Array, "batch tokens hidden"]:
        if ids.ndim not in (1, 2) or (ids.ndim == 2 and ids.shape[1] != 1):
            raise ValueError(f"context ids have shape {ids.shape}, expected (B,) or (B, 1)")
        table = self.contexts.get_value().astype(self.dtype)
        return jnp.take(table, ids.reshape(-1), axis=0, mode="fill", fill_value=jnp.nan)
