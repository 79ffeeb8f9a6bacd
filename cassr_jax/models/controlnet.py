"""ControlNet: a copy of the U-Net's encoder that also reads an image (diffusers' `ControlNetModel`).

PASD's ControlNets (arXiv 2308.14469) have two additions in their hint network: heads that give the undegraded picture
at each of its resolutions, which are trained and then unused, and in some variants two of ESRGAN's blocks at full
resolution.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.checks import check_widths
from cassr_jax.models.layers import Conv
from cassr_jax.models.rrdbnet import RRDB, RRDBNetConfig
from cassr_jax.models.unet import TextKeyValues, UNetConfig, UNetEncoder
from cassr_jax.typing import FeatureList, FeatureMap, Images, Latents, TimeEmbedding


@dataclass(frozen=True)
class ControlNetConfig:
    """The config of a ControlNet beyond the encoder's own. The hint net halves its input between widths.

    `return_rgbs` and `use_rrdb` are the additions of PASD's ControlNets.
    """

    SHARED: ClassVar = ("block_out_channels", "layers_per_block", "in_channels", "cross_attention_dim")
    """The encoder's fields that the U-Net beside it must share."""

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    return_rgbs: bool = False
    use_rrdb: bool = False

    def __post_init__(self) -> None:
        check_widths(self)

    @property
    def additions(self) -> tuple[str, ...]:
        """The names of PASD's additions that it has."""
        return tuple(name for name in ("return_rgbs", "use_rrdb") if getattr(self, name))

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)


class ControlNetOutput(NamedTuple):
    """The output of a ControlNet: `features` before the zero convolutions, `residuals` and `middle` after them.

    Keys and values of the image attention must be made from `features`: the residuals are zero in an untrained network,
    and no gradient would pass through them.
    """

    features: FeatureList
    residuals: FeatureList
    middle: FeatureMap


_RRDB_BLOCKS = 2


class HintEmbedding(nnx.Module):
    """Images to the latents' resolution and the encoder's first width, the last convolution zero."""

    def __init__(self, config: ControlNetConfig, out_channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        widths = config.conditioning_embedding_out_channels
        self.conv_in = Conv(config.conditioning_channels, widths[0], 3, **kwargs)
        if config.use_rrdb:
            rrdb = RRDBNetConfig(num_feat=widths[0], num_grow_ch=widths[0])
            self.preprocesser = nnx.List(RRDB(rrdb, **kwargs) for _ in range(_RRDB_BLOCKS))
        blocks = []
        for i in range(len(widths) - 1):
            blocks.append(Conv(widths[i], widths[i], 3, **kwargs))
            blocks.append(Conv(widths[i], widths[i + 1], 3, stride=2, **kwargs))
        self.blocks = nnx.List(blocks)
        if config.return_rgbs:
            self.to_rgbs = nnx.List(Conv(width, 3, 3, **kwargs) for width in widths[1:])
        self.conv_out = Conv(widths[-1], out_channels, 3, zero=True, **kwargs)

    def __call__(self, images: Images) -> FeatureMap:
        return self.conv_out(self._features(images)[-1])

    def rgbs(self, images: Images) -> FeatureList:
        """The undegraded pictures at half the size, a quarter, ...; each is what a head makes of the features there.

        Raises:
            ValueError: the network has no such heads.
        """
        if not hasattr(self, "to_rgbs"):
            raise ValueError("the hint network has no heads, expected return_rgbs in its config")
        return [head(x) for head, x in zip(self.to_rgbs, self._features(images), strict=True)]

    def _features(self, images: Images) -> FeatureList:
        """The features after every halving."""
        x = nnx.silu(self.conv_in(images))
        for block in getattr(self, "preprocesser", ()):
            x = block(x)
        found = []
        for i, block in enumerate(self.blocks):
            x = nnx.silu(block(x))
            if i % 2:
                found.append(x)
        return found or [x]


class ControlNet(UNetEncoder):
    """Latents, time, text and an embedded hint image -> features and residuals for every skip, and the middle.

    One set of weights reads both of CasSR's images: stack them along the batch.
    """

    def __init__(self, unet: UNetConfig, config: ControlNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        super().__init__(unet, dtype=dtype, rngs=rngs)
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.controlnet_cond_embedding = HintEmbedding(config, unet.block_out_channels[0], **kwargs)
        self.controlnet_down_blocks = nnx.List(Conv(c, c, 1, zero=True, **kwargs) for c in unet.skip_channels)
        self.controlnet_mid_block = Conv(
            unet.block_out_channels[-1], unet.block_out_channels[-1], 1, zero=True, **kwargs
        )

    def embed_hint(self, images: Images) -> FeatureMap:
        """Images in [0, 1], as diffusers' ControlNets take them -> features of the latents' resolution."""
        return self.controlnet_cond_embedding(images)

    def embed_rgbs(self, images: Images) -> FeatureList:
        """Images in [0, 1] -> the undegraded pictures in [-1, 1] at each resolution of PASD's hint network."""
        return self.controlnet_cond_embedding.rgbs(images)

    def __call__(
        self, latents: Latents, temb: TimeEmbedding, text: TextKeyValues, hint: FeatureMap
    ) -> ControlNetOutput:
        middle, features = self._encode(latents, temb, text, hint)
        residuals = [conv(f) for conv, f in zip(self.controlnet_down_blocks, features, strict=True)]
        return ControlNetOutput(features, residuals, self.controlnet_mid_block(middle))
