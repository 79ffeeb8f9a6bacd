"""The layers of which all networks here are built, in NHWC, each with an explicit dtype.

`dtype` is the precision of the computation; parameters are cast to it when they are used, so float32 parameters never
promote bfloat16 activations. Attribute names are those of diffusers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from cassr_jax.models.division import block_output, placed
from cassr_jax.models.initializers import ONES, UNIFORM, ZEROS
from cassr_jax.models.moments import Moments, moments
from cassr_jax.typing import AnyFloat, Features, TimeEmbedding, Timesteps

NETWORK_INPUT = "network_input"
"""The name of the values that come before a step's networks, which a training step always keeps."""


class Identity(nnx.Module):
    """A placeholder (for a dropout) in a list whose numbering a published checkpoint fixes."""

    def __call__(self, x: AnyFloat) -> AnyFloat:
        return x


class Linear(nnx.Linear):
    """`nnx.Linear`, (..., in) -> (..., out); optionally all zero at the start."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, zero: bool = False,
        dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        super().__init__(
            in_features,
            out_features,
            use_bias=use_bias,
            kernel_init=ZEROS if zero else UNIFORM,
            bias_init=ZEROS,
            dtype=dtype,
            rngs=rngs,
        )


class Conv(nnx.Conv):
    """Two-dimensional convolution, (B, H, W, in) -> (B, H', W', out), with torch's explicit padding.

    `padding` is one number for all sides, or ((top, bottom), (left, right)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1,
        padding: int | tuple[tuple[int, int], ...] | None = None, use_bias: bool = True, zero: bool = False,
        dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        if padding is None:
            padding = kernel_size // 2
        super().__init__(
            in_channels,
            out_channels,
            (kernel_size, kernel_size),
            strides=stride,
            # Tuples: a list would make the module's definition unhashable.
            padding=((padding, padding),) * 2 if isinstance(padding, int) else padding,
            use_bias=use_bias,
            kernel_init=ZEROS if zero else UNIFORM,
            bias_init=ZEROS,
            dtype=dtype,
            rngs=rngs,
        )
        self.is_product = kernel_size == 1 and stride == 1

    def __call__(self, x: Features) -> Float[Array, "batch _ _ out_channels"]:
        if not self.is_product:
            return super().__call__(x)
        # Where devices divide the rows, XLA (of jaxlib 0.10) gets the gradient of a 1x1 convolution's kernel wrong.
        assert self.bias is not None, "no 1x1 convolution here goes without"
        kernel, bias = (jnp.asarray(each[...], self.dtype) for each in (self.kernel, self.bias))
        return x.astype(kernel.dtype) @ kernel[0, 0] + bias


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation over the last axis, eps 1e-5 (torch's default); statistics in float32."""

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        # The plain variance, as in torch: E[x^2] - E[x]^2 loses digits that parity needs.
        super().__init__(
            features,
            epsilon=1e-5,
            use_fast_variance=False,
            scale_init=ONES,
            bias_init=ZEROS,
            dtype=dtype,
            rngs=rngs,
        )


class GroupNorm(nnx.Module):
    """Group normalisation of (B, ..., C); statistics in float32, the input's own or those given by `models.moments`.

    The moments are taken per channel and then combined per group. The reduction thus runs along contiguous memory, 2.4
    times faster on a CPU than over a (B, H, W, groups, C / groups) view.
    """

    def __init__(self, groups: int, features: int, *, eps: float, dtype: DTypeLike, rngs: nnx.Rngs):
        del rngs  # parameters start at constants
        if features % groups:
            raise ValueError(f"norm_num_groups is {groups}, expected a divisor of the {features} channels")
        self.groups = groups
        self.eps = eps
        self.dtype = dtype
        self.scale = nnx.Param(np.ones(features, np.float32))
        self.bias = nnx.Param(np.zeros(features, np.float32))

    def __call__(self, x: Float[Array, "batch *size channels"]) -> Float[Array, "batch *size channels"]:
        batch, features = x.shape[0], x.shape[-1]
        spatial = tuple(range(1, x.ndim - 1))
        wide = x.astype(jnp.float32)

        def measure() -> Moments:
            mean_c = jnp.mean(wide, axis=spatial)  # (B, C)
            # Centred per channel, so that no digits cancel if a channel's mean is far above its deviation.
            var_c = jnp.mean(jnp.square(wide - jnp.expand_dims(mean_c, spatial)), axis=spatial)
            grouped = mean_c.reshape(batch, self.groups, -1)
            mean = jnp.mean(grouped, axis=-1, keepdims=True)  # (B, G, 1)
            return Moments(mean, jnp.mean(var_c.reshape(grouped.shape) + jnp.square(grouped - mean), -1, keepdims=True))

        mean, var = moments(measure)
        scale = jax.lax.rsqrt(var + self.eps) * self.scale.astype(jnp.float32).reshape(self.groups, -1)
        mean = jnp.broadcast_to(mean, scale.shape)
        mean, scale = (jnp.expand_dims(a.reshape(batch, features), spatial) for a in (mean, scale))
        # Centred first: a constant input gives the bias and nothing else.
        return ((wide - mean) * scale + self.bias.astype(jnp.float32)).astype(self.dtype)


class ResnetBlock(nnx.Module):
    """diffusers' `ResnetBlock2D`: norm, SiLU, conv, (+ time), norm, SiLU, conv, + shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, *, temb_channels: int | None, groups: int, eps: float,
        dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.norm1 = GroupNorm(groups, in_channels, eps=eps, **kwargs)
        self.conv1 = Conv(in_channels, out_channels, 3, **kwargs)
        if temb_channels is not None:
            self.time_emb_proj = Linear(temb_channels, out_channels, **kwargs)
        self.norm2 = GroupNorm(groups, out_channels, eps=eps, **kwargs)
        self.conv2 = Conv(out_channels, out_channels, 3, **kwargs)
        if in_channels != out_channels:
            self.conv_shortcut = Conv(in_channels, out_channels, 1, **kwargs)

    def __call__(
        self, x: Features, temb: TimeEmbedding | None = None
    ) -> Float[Array, "batch height width out_channels"]:
        h = placed(self.conv1(nnx.silu(self.norm1(x))), self, "hidden")
        if temb is not None:
            h = h + self.time_emb_proj(nnx.silu(temb))[:, None, None, :]
        h = placed(self.conv2(nnx.silu(self.norm2(h))), self, "branch")
        return block_output((self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h, self)


class Downsample(nnx.Module):
    """Halves height and width with a strided convolution. `asymmetric` pads below and right only, as the VAE does."""

    def __init__(self, channels: int, *, asymmetric: bool = False, dtype: DTypeLike, rngs: nnx.Rngs):
        padding = ((0, 1), (0, 1)) if asymmetric else 1
        self.conv = Conv(channels, channels, 3, stride=2, padding=padding, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features) -> Float[Array, "batch _ _ channels"]:
        return block_output(self.conv(x), self)


class Upsample(nnx.Module):
    """Doubles height and width by repeating pixels, then a convolution.

    With `shape`, (H, W), the result is cropped to it, since skips of odd size are rounded up on the way down.
    """

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features, shape: tuple[int, int] | None = None) -> Float[Array, "batch _ _ channels"]:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        if shape is not None:
            x = x[:, : shape[0], : shape[1]]
        return block_output(self.conv(x), self)


def timestep_embedding(timesteps: Timesteps, dim: int) -> Float32[Array, "batch {dim}"]:
    """Sinusoidal embedding as Stable Diffusion takes it, cosines first.

    It equals diffusers' `get_timestep_embedding(flip_sin_to_cos=True, downscale_freq_shift=0)`.
    """
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(dim // 2, dtype=jnp.float32) / (dim // 2))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """Two linear layers with a SiLU between."""

    def __init__(self, in_channels: int, out_channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_channels, out_channels, dtype=dtype, rngs=rngs)
        self.linear_2 = Linear(out_channels, out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch in_channels"]) -> Float[Array, "batch out_channels"]:
        return self.linear_2(nnx.silu(self.linear_1(x)))
