"""TAESD, a small autoencoder distilled from Stable Diffusion's (diffusers' `AutoencoderTiny`, madebyollin/taesd).

It takes and makes the scaled latents of the large one. It has no normalisation, so what it makes of a tile depends on
no other part of the picture.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.checks import check_depth, check_widths
from cassr_jax.models.layers import Conv
from cassr_jax.typing import FeatureMap, Features, Images, Latents

_LARGEST = 3.0  # latents are squashed into (-3, 3)


@dataclass(frozen=True)
class TAESDConfig:
    """Widths and depths of TAESD, named as in diffusers' config.json; the defaults are Stable Diffusion 1.5's.

    The levels of the encoder go from the pixels down, those of the decoder up to the pixels. `num_encoder_blocks` and
    `num_decoder_blocks` are the residual blocks of each.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)

    def __post_init__(self) -> None:
        check_widths(self)
        for half in ("encoder", "decoder"):
            widths, blocks = (getattr(self, name) for name in (f"{half}_block_out_channels", f"num_{half}_blocks"))
            for count in blocks:
                check_depth(f"num_{half}_blocks", count)
            if len({*widths}) > 1:
                raise ValueError(f"{half}_block_out_channels is {widths}, expected the same width at every level")
            if not len(widths) == len(blocks) == len(self.num_encoder_blocks):
                raise ValueError(
                    f"{half}_block_out_channels is {widths} and num_{half}_blocks {blocks}, expected "
                    f"{len(self.num_encoder_blocks)} levels in both, as in num_encoder_blocks"
                )

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.num_encoder_blocks) - 1)


class ReLU(nnx.Module):
    def __call__(self, x: Features) -> Features:
        return nnx.relu(x)


class Repeat(nnx.Module):
    """Doubles height and width by repeating pixels."""

    def __call__(self, x: Features) -> FeatureMap:
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class TinyBlock(nnx.Module):
    """ReLU(x + three convolutions with ReLUs between); diffusers' `AutoencoderTinyBlock` of one width."""

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        convs = [Conv(features, features, 3, dtype=dtype, rngs=rngs) for _ in range(3)]
        self.conv = nnx.List([convs[0], ReLU(), convs[1], ReLU(), convs[2]])

    def __call__(self, x: Features) -> Features:
        return nnx.relu(_through(self.conv, x) + x)


class TinyEncoder(nnx.Module):
    """Images (B, H, W, 3) in [-1, 1] -> latents (B, H / f, W / f, latent)."""

    def __init__(self, config: TAESDConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        width, *_ = config.encoder_block_out_channels
        first, *deeper = config.num_encoder_blocks
        layers: list[nnx.Module] = [Conv(config.in_channels, width, 3, **kwargs)]
        layers += [TinyBlock(width, **kwargs) for _ in range(first)]
        for blocks in deeper:
            layers.append(Conv(width, width, 3, stride=2, use_bias=False, **kwargs))
            layers += [TinyBlock(width, **kwargs) for _ in range(blocks)]
        self.layers = nnx.List([*layers, Conv(width, config.latent_channels, 3, **kwargs)])

    def __call__(self, images: Images) -> FeatureMap:
        return _through(self.layers, (images + 1) / 2)


class TinyDecoder(nnx.Module):
    """Latents (B, h, w, latent) -> images (B, h * f, w * f, 3), about [-1, 1]."""

    def __init__(self, config: TAESDConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        width, *_ = config.decoder_block_out_channels
        layers: list[nnx.Module] = [Conv(config.latent_channels, width, 3, **kwargs), ReLU()]
        *deeper, last = config.num_decoder_blocks
        for blocks in deeper:
            layers += [TinyBlock(width, **kwargs) for _ in range(blocks)]
            layers += [Repeat(), Conv(width, width, 3, use_bias=False, **kwargs)]
        layers += [TinyBlock(width, **kwargs) for _ in range(last)]
        self.layers = nnx.List([*layers, Conv(width, config.out_channels, 3, **kwargs)])

    def __call__(self, latents: Latents) -> FeatureMap:
        return 2 * _through(self.layers, jnp.tanh(latents / _LARGEST) * _LARGEST) - 1


class AutoencoderTiny(nnx.Module):
    """The whole autoencoder. Images are RGB in [-1, 1]; latents are scaled as the U-Net takes them."""

    def __init__(self, config: TAESDConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.encoder = TinyEncoder(config, dtype=dtype, rngs=rngs)
        self.decoder = TinyDecoder(config, dtype=dtype, rngs=rngs)

    def encode(self, images: Images) -> Latents:
        """The latents of images, in float32."""
        return self.encoder(images).astype(jnp.float32)

    def decode(self, latents: Latents) -> Images:
        """The images of latents, not clipped."""
        return self.decoder(latents)


def _through(layers: Iterable[nnx.Module], x: FeatureMap) -> FeatureMap:
    for layer in layers:
        x = layer(x)
    return x
