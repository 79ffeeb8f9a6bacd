"""A decoder that starts at the reference: what it adds to it comes from the latents and from the pictures themselves.

An autoencoder loses some of every picture that passes through it, also of a reference that is better than what it can
decode. This decoder loses nothing: it folds the pictures to the latents' resolution, computes a correction there from
the latents and all pictures, and adds it to the last picture, the reference. Its last layer starts at zero, so the
untrained decoder gives the reference as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cassr_jax.models.checks import check_depth
from cassr_jax.models.fusion import SLOPE, Fusion, ResidualBlock
from cassr_jax.models.layers import Conv
from cassr_jax.models.vae import AutoencoderKL
from cassr_jax.typing import FeatureMap, Images, Latents, Scalar

_RGB = 3


@dataclass(frozen=True)
class GuidedDecoderConfig:
    """The config of a guided decoder; the defaults fit Stable Diffusion 1.5's autoencoder.

    Attributes:
        latent_channels: channels of the autoencoder's latents.
        factor: pixels per latent along one side.
        num_guides: how many pictures guide the decoder; the last is the one that it corrects.
        features: width of all layers.
        num_blocks: residual blocks.
    """

    latent_channels: int = 4
    factor: int = 8
    num_guides: int = 2
    features: int = 256
    num_blocks: int = 16

    def __post_init__(self) -> None:
        for name in ("latent_channels", "factor", "num_guides", "features", "num_blocks"):
            check_depth(name, getattr(self, name))


class GuidedDecoder(nnx.Module):
    """Latents and guides -> the last guide, corrected."""

    def __init__(self, config: GuidedDecoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        folded = _RGB * config.factor**2
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.conv_in = Conv(config.latent_channels + config.num_guides * folded, config.features, 3, **kwargs)
        self.resnets = nnx.List([ResidualBlock(config.features, **kwargs) for _ in range(config.num_blocks)])
        self.conv_out = Conv(config.features, folded, 3, zero=True, **kwargs)

    def __call__(self, latents: Latents, guides: Sequence[Images]) -> Images:
        """The corrected picture (B, H, W, 3) in float32, not clipped; guides are in [-1, 1].

        Raises:
            ValueError: the number of guides is not the network's.
        """
        if len(guides) != self.config.num_guides:
            raise ValueError(f"{len(guides)} guides, expected {self.config.num_guides}")
        pictures = [jnp.asarray(guide, jnp.float32) for guide in guides]
        folded = [fold(picture, self.config.factor) for picture in pictures]
        x = start = self.conv_in(jnp.concatenate([latents.astype(jnp.float32), *folded], axis=-1))
        for resnet in self.resnets:
            x = resnet(x)
        correction = self.conv_out(nnx.leaky_relu(x + start, SLOPE))
        return pictures[-1] + unfold(correction.astype(jnp.float32), self.config.factor)

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


def unfold(x: FeatureMap, factor: int) -> Float[Array, "batch _ _ _"]:
    """The inverse of `fold`: (B, h, w, factor^2 C) -> (B, h * factor, w * factor, C)."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, factor, factor, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * factor, width * factor, -1)


def decode_guided(
    vae: AutoencoderKL,
    fusion: Fusion | GuidedDecoder | None,
    latents: Latents,
    guides: Sequence[Images],
    weight: float | Scalar = 1.0,
) -> Images:
    """Decodes scaled latents to images, not clipped; without a `fusion` by the plain decoder.

    `guides` are the pictures that the second stage reads, in [-1, 1], the LQ image first. A fusion with fewer guides
    takes the first ones. A `weight` of 0 is the plain decoder, 1 the fusion as trained.
    """
    return vae.decode(latents) if fusion is None else fusion.decode(vae, latents, guides, weight)
