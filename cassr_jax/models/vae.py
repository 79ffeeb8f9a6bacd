"""The autoencoder of latent diffusion (diffusers' `AutoencoderKL`): images to latents and back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.checks import check_depth, check_divisor, check_widths
from cassr_jax.models.division import placed
from cassr_jax.models.dot_product import dot_product_attention
from cassr_jax.models.layers import Conv, Downsample, GroupNorm, Identity, Linear, ResnetBlock, Upsample
from cassr_jax.typing import FeatureList, FeatureMap, Features, Images, Latents

_EPS = 1e-6
SCALING_FACTORS = (1e-3, 1e3)  # others would take latents out of the range of half precision

# Changes the decoder's features at one level, given the level's stride in pixels and the features.
Fuse = Callable[[int, FeatureMap], FeatureMap]


@dataclass(frozen=True)
class VAEConfig:
    """Widths of the autoencoder, named as in diffusers' config.json; the defaults are Stable Diffusion 1.5's."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        check_depth("layers_per_block", self.layers_per_block)
        check_widths(self)
        check_divisor("norm_num_groups", self.norm_num_groups, self.block_out_channels)
        least, most = SCALING_FACTORS
        if not least <= self.scaling_factor <= most:
            raise ValueError(f"scaling_factor is {self.scaling_factor}, expected a number of {least:g} to {most:g}")

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


class VAEAttention(nnx.Module):
    """Single-head self-attention over all positions: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, features: int, *, groups: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(groups, features, eps=_EPS, dtype=dtype, rngs=rngs)
        self.to_q = Linear(features, features, dtype=dtype, rngs=rngs)
        self.to_k = Linear(features, features, dtype=dtype, rngs=rngs)
        self.to_v = Linear(features, features, dtype=dtype, rngs=rngs)
        self.to_out = nnx.List([Linear(features, features, dtype=dtype, rngs=rngs)])

    def __call__(self, x: Features) -> Features:
        batch, _, _, channels = x.shape
        h = self.group_norm(x).reshape(batch, -1, channels)
        h = dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h), num_heads=1)
        return x + self.to_out[0](h).reshape(x.shape)


class MidBlock(nnx.Module):
    def __init__(self, features: int, config: VAEConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        groups = config.norm_num_groups
        self.resnets = nnx.List(
            [ResnetBlock(features, features, temb_channels=None, groups=groups, eps=_EPS, **kwargs) for _ in range(2)]
        )
        attend = config.mid_block_add_attention
        self.attentions = nnx.List([VAEAttention(features, groups=groups, **kwargs) if attend else Identity()])

    def __call__(self, x: Features) -> Features:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class DownBlock(nnx.Module):
    def __init__(
        self, in_channels: int, out_channels: int, config: VAEConfig, *, downsample: bool,
        dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        kwargs = {"dtype": dtype, "rngs": rngs}
        widths = [in_channels] + [out_channels] * config.layers_per_block
        self.resnets = nnx.List(
            ResnetBlock(i, o, temb_channels=None, groups=config.norm_num_groups, eps=_EPS, **kwargs)
            for i, o in pairwise(widths)
        )
        if downsample:
            self.downsamplers = nnx.List([Downsample(out_channels, asymmetric=True, **kwargs)])

    def __call__(self, x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
        """The features of this level, and the input of the next one."""
        for resnet in self.resnets:
            x = resnet(x)
        return x, self.downsamplers[0](x) if hasattr(self, "downsamplers") else x


class UpBlock(nnx.Module):
    def __init__(
        self, in_channels: int, out_channels: int, config: VAEConfig, *, upsample: bool,
        dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        kwargs = {"dtype": dtype, "rngs": rngs}
        widths = [in_channels] + [out_channels] * (config.layers_per_block + 1)
        self.resnets = nnx.List(
            ResnetBlock(i, o, temb_channels=None, groups=config.norm_num_groups, eps=_EPS, **kwargs)
            for i, o in pairwise(widths)
        )
        if upsample:
            self.upsamplers = nnx.List([Upsample(out_channels, **kwargs)])

    def __call__(self, x: FeatureMap, fuse: Callable[[FeatureMap], FeatureMap]) -> FeatureMap:
        for resnet in self.resnets:
            x = resnet(x)
        x = fuse(x)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class Encoder(nnx.Module):
    """Images (B, H, W, 3) -> mean and log-variance side by side (B, H / f, W / f, 2 * latent)."""

    def __init__(self, config: VAEConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        widths = config.block_out_channels
        self.conv_in = Conv(config.in_channels, widths[0], 3, **kwargs)
        self.down_blocks = nnx.List(
            DownBlock(widths[max(i - 1, 0)], width, config, downsample=i < len(widths) - 1, **kwargs)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], config, **kwargs)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], eps=_EPS, **kwargs)
        self.conv_out = Conv(widths[-1], 2 * config.latent_channels, 3, **kwargs)

    def __call__(self, x: Images) -> FeatureMap:
        x = self._down(x)[1]
        return self.conv_out(nnx.silu(self.conv_norm_out(self.mid_block(x))))

    def features(self, x: Images) -> FeatureList:
        """The features of every level before downsampling, shallowest first."""
        return self._down(x)[0]

    def _down(self, x: Images) -> tuple[FeatureList, FeatureMap]:
        features, x = [], self.conv_in(placed(x, self, "input"))
        for block in self.down_blocks:
            level, x = block(x)
            features.append(level)
        return features, x


class Decoder(nnx.Module):
    """Unscaled latents (B, h, w, latent) -> images (B, h * f, w * f, 3)."""

    def __init__(self, config: VAEConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        widths = config.block_out_channels[::-1]
        self.conv_in = Conv(config.latent_channels, widths[0], 3, **kwargs)
        self.mid_block = MidBlock(widths[0], config, **kwargs)
        self.up_blocks = nnx.List(
            UpBlock(widths[max(i - 1, 0)], width, config, upsample=i < len(widths) - 1, **kwargs)
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], eps=_EPS, **kwargs)
        self.conv_out = Conv(widths[-1], config.out_channels, 3, **kwargs)

    def __call__(self, z: Latents, fuse: Fuse | None = None) -> FeatureMap:
        x = self.mid_block(self.conv_in(z))
        for level, block in enumerate(self.up_blocks, 1 - len(self.up_blocks)):
            x = block(x, partial(fuse or _unchanged, 2**-level))
        return self.conv_out(nnx.silu(self.conv_norm_out(x)))


def _unchanged(stride: int, x: FeatureMap) -> FeatureMap:
    del stride
    return x


class AutoencoderKL(nnx.Module):
    """The whole autoencoder.

    Images are RGB in [-1, 1]; `encode` multiplies latents by `scaling_factor`, and `decode` divides by it.
    """

    def __init__(self, config: VAEConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.config = config
        self.encoder = Encoder(config, **kwargs)
        self.decoder = Decoder(config, **kwargs)
        self.quant_conv = Conv(2 * config.latent_channels, 2 * config.latent_channels, 1, **kwargs)
        self.post_quant_conv = Conv(config.latent_channels, config.latent_channels, 1, **kwargs)

    def moments(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log-variance of the unscaled latents, float32; the log-variance lies in [-30, 20]."""
        found = placed(self.quant_conv(self.encoder(images)), self, "moments")
        mean, logvar = jnp.split(found.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def encode(self, images: Images) -> Latents:
        """The mean of the latents, scaled, in float32."""
        return self.moments(images)[0] * self.config.scaling_factor

    def features(self, images: Images) -> FeatureList:
        """The encoder's features of the images at every level before downsampling, shallowest first."""
        return self.encoder.features(images)

    def decode(self, latents: Latents, fuse: Fuse | None = None) -> Images:
        """The images of scaled latents, not clipped; `fuse` changes the features of every level before upsampling."""
        return self.decoder(self.post_quant_conv(latents / self.config.scaling_factor), fuse)
