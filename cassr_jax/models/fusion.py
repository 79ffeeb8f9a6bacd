"""Fusion: guides the autoencoder's decoder with the encoder's features of other pictures.

This is StableSR's controllable feature wrapping (arXiv 2305.07015, section 3.3): F <- F + w C(F, E), where F are the
decoder's features at one level, E the encoder's features of the guides at the same level, and C is a small network.
StableSR's only guide is the LQ image, and it fuses at 2 and 4 px; a second guide and the full resolution are ours. The
start is ours too: C ends in zeros, and the untrained decoder is the plain one bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.checks import check_depth, check_widths
from cassr_jax.models.layers import Conv
from cassr_jax.models.vae import AutoencoderKL, Fuse
from cassr_jax.typing import FeatureList, Features, Images, Latents, Scalar

SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True)
class FusionConfig:
    """The config of a fusion; the default is StableSR's, in Stable Diffusion 1.5's autoencoder with one guide.

    Attributes:
        block_out_channels: widths of the autoencoder, shallowest first.
        strides: the levels that are fused, by their pixels per feature along a side: 1, 2, 4, ...
        num_guides: how many pictures guide the decoder.
        num_blocks: residual blocks at each level.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    strides: tuple[int, ...] = (2, 4)
    num_guides: int = 1
    num_blocks: int = 2

    def __post_init__(self) -> None:
        check_depth("num_blocks", self.num_blocks)
        check_widths(self)
        known = [2**level for level in range(len(self.block_out_channels))]
        if not self.strides or len({*self.strides}) < len(self.strides) or not {*self.strides} <= {*known}:
            raise ValueError(f"strides are {self.strides}, expected some of {known}, each once")
        if self.num_guides < 1:
            raise ValueError(f"num_guides is {self.num_guides}, expected at least 1")


class ResidualBlock(nnx.Module):
    """x + conv(leaky_relu(conv(x))), without normalisation, which would make tiles differ."""

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv1 = Conv(features, features, 3, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(features, features, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features) -> Features:
        return x + self.conv2(nnx.leaky_relu(self.conv1(x), SLOPE))


class FusionBlock(nnx.Module):
    """The term added to the decoder's features at one level; zero before training."""

    def __init__(self, features: int, config: FusionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv_in = Conv((1 + config.num_guides) * features, features, 3, dtype=dtype, rngs=rngs)
        self.resnets = nnx.List([ResidualBlock(features, dtype=dtype, rngs=rngs) for _ in range(config.num_blocks)])
        self.conv_out = Conv(features, features, 3, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, decoded: Features, guides: Sequence[Features]) -> Features:
        x = self.conv_in(jnp.concatenate([decoded, *guides], axis=-1))
        for resnet in self.resnets:
            x = resnet(x)
        return self.conv_out(nnx.leaky_relu(x, SLOPE))


class Fusion(nnx.Module):
    """One fusion block for each fused level of an autoencoder, in the order of `config.strides`."""

    def __init__(self, config: FusionConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        widths = {2**level: width for level, width in enumerate(config.block_out_channels)}
        self.blocks = nnx.List([FusionBlock(widths[s], config, dtype=dtype, rngs=rngs) for s in config.strides])

    def bind(self, guides: Sequence[FeatureList], weight: float | Scalar = 1.0) -> Fuse:
        """The function for `AutoencoderKL.decode` that adds the guides' features.

        Args:
            guides: `AutoencoderKL.features` of each guide.
            weight: from 0, the plain decoder, to 1, the decoder as trained.

        Raises:
            ValueError: the number of guides is not the network's.
        """
        if len(guides) != self.config.num_guides:
            raise ValueError(f"{len(guides)} guides, expected {self.config.num_guides}")
        blocks = dict(zip(self.config.strides, self.blocks, strict=True))

        def fuse(stride: int, x: Features) -> Features:
            if stride not in blocks:
                return x
            level = stride.bit_length() - 1
            added = blocks[stride](x, [features[level] for features in guides])
            return x + jnp.asarray(weight, x.dtype) * added

        return fuse

    def decode(
        self, vae: AutoencoderKL, latents: Latents, guides: Sequence[Images], weight: float | Scalar = 1.0
    ) -> Images:
        """The picture of scaled latents, not clipped; guides are in [-1, 1], and those beyond `num_guides` are unused.

        Raises:
            ValueError: there are fewer guides than the network has.
        """
        seen = [vae.features(image) for image in guides[: self.config.num_guides]]
        return vae.decode(latents, self.bind(seen, weight))
