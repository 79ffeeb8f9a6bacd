"""A decoder that starts at the reference: what it adds to it comes from the latents and from the pictures themselves.

An autoencoder loses some of every picture that passes through it, also of a reference that is better than what it can
decode. This decoder loses nothing: it adds a correction to the last picture, the reference. Its last layer starts at
zero, so the untrained decoder gives the reference as it is.

It works at two resolutions. Most layers are at that of the latents, to which the pictures are folded. They steer a few
layers at full resolution, whose filters are the same at every pixel: a correction that was made at the lower resolution
and unfolded had a pattern of squares (docs/tiny.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cassr_jax.models.checks import check_depth, check_widths
from cassr_jax.models.fusion import SLOPE, Fusion, ResidualBlock
from cassr_jax.models.layers import Conv
from cassr_jax.models.taesd import AutoencoderTiny
from cassr_jax.models.vae import AutoencoderKL
from cassr_jax.typing import FeatureMap, Features, Images, Latents, Scalar

_RGB = 3


@dataclass(frozen=True)
class GuidedDecoderConfig:
    """The config of a guided decoder; the defaults fit Stable Diffusion 1.5's autoencoder.

    Attributes:
        latent_channels: channels of the autoencoder's latents.
        factor: pixels per latent along one side.
        num_guides: how many pictures guide the decoder; the last is the one that it corrects.
        features: width of the layers at the latents' resolution.
        num_blocks: residual blocks at that resolution.
        pixel_features: width of the layers at full resolution.
        num_pixel_blocks: blocks at full resolution.
    """

    latent_channels: int = 4
    factor: int = 8
    num_guides: int = 2
    features: int = 256
    num_blocks: int = 16
    pixel_features: int = 64
    num_pixel_blocks: int = 4

    def __post_init__(self) -> None:
        check_widths(self)
        for name in ("num_blocks", "num_pixel_blocks"):
            check_depth(name, getattr(self, name))


class PixelBlock(nnx.Module):
    """A residual block at full resolution whose inner features are scaled and shifted by the steering ones."""

    def __init__(self, features: int, steering: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv1 = Conv(features, features, 3, dtype=dtype, rngs=rngs)
        self.steer = Conv(steering, 2 * features, 1, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(features, features, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features, steering: FeatureMap) -> Features:
        _, height, width, _ = x.shape
        scale, shift = jnp.split(enlarge(self.steer(steering), (height, width)), 2, axis=-1)
        return x + self.conv2(nnx.leaky_relu(self.conv1(x) * (1 + scale) + shift, SLOPE))


class GuidedDecoder(nnx.Module):
    """Latents and guides -> the last guide, corrected."""

    def __init__(self, config: GuidedDecoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        read, kwargs = config.num_guides * _RGB, {"dtype": dtype, "rngs": rngs}
        width, pixel_width = config.features, config.pixel_features
        self.conv_in = Conv(config.latent_channels + read * config.factor**2, width, 3, **kwargs)
        self.resnets = nnx.List([ResidualBlock(width, **kwargs) for _ in range(config.num_blocks)])
        self.pixels_in = Conv(read, pixel_width, 3, **kwargs)
        self.pixel_blocks = nnx.List([PixelBlock(pixel_width, width, **kwargs) for _ in range(config.num_pixel_blocks)])
        self.conv_out = Conv(pixel_width, _RGB, 3, zero=True, **kwargs)

    def __call__(self, latents: Latents, guides: Sequence[Images]) -> Images:
        """The corrected picture (B, H, W, 3) in float32, not clipped; guides are in [-1, 1].

        Raises:
            ValueError: the number of guides is not the network's.
        """
        if len(guides) != self.config.num_guides:
            raise ValueError(f"{len(guides)} guides, expected {self.config.num_guides}")
        pictures = jnp.concatenate([jnp.asarray(guide, jnp.float32) for guide in guides], axis=-1)
        folded = fold(pictures, self.config.factor)
        x = start = self.conv_in(jnp.concatenate([latents.astype(jnp.float32), folded], axis=-1))
        for resnet in self.resnets:
            x = resnet(x)
        steering = nnx.leaky_relu(x + start, SLOPE)
        y = self.pixels_in(pictures)
        for block in self.pixel_blocks:
            y = block(y, steering)
        return pictures[..., -_RGB:] + self.conv_out(nnx.leaky_relu(y, SLOPE)).astype(jnp.float32)

    def decode(
        self, vae: AutoencoderKL, latents: Latents, guides: Sequence[Images], weight: float | Scalar = 1.0
    ) -> Images:
        """The picture between the plain decoder's, for a weight of 0, and this one's, for 1.

        Raises:
            ValueError: there are fewer guides than the network has.
        """
        made = self(latents, guides[: self.config.num_guides])
        if isinstance(weight, float) and weight == 1:  # in training, where the plain decoder would only cost time
            return made
        plain = vae.decode(latents)
        return plain + jnp.asarray(weight, plain.dtype) * (made.astype(plain.dtype) - plain)


def fold(picture: Float[Array, "batch height width channels"], factor: int) -> FeatureMap:
    """Squares of `factor` px become channels: (B, H, W, C) -> (B, H / factor, W / factor, factor^2 C)."""
    batch, height, width, channels = picture.shape
    x = picture.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // factor, width // factor, -1)


def enlarge(x: FeatureMap, size: tuple[int, int]) -> FeatureMap:
    """Enlarges (B, h, w, C) to `size` linearly; squares of equal features would show in the picture."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear")


def decode_guided(
    vae: AutoencoderKL | AutoencoderTiny,
    fusion: Fusion | GuidedDecoder | None,
    latents: Latents,
    guides: Sequence[Images],
    weight: float | Scalar = 1.0,
) -> Images:
    """Decodes scaled latents to images, not clipped; without a `fusion` by the plain decoder.

    `guides` are the pictures that the second stage reads, in [-1, 1], the LQ image first. A fusion with fewer guides
    takes the first ones. A `weight` of 0 is the plain decoder, 1 the fusion as trained.
    """
    if fusion is None:
        return vae.decode(latents)
    assert isinstance(vae, AutoencoderKL), "no fusion is made for another autoencoder"
    return fusion.decode(vae, latents, guides, weight)
