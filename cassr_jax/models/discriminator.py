"""A discriminator that judges pictures by a frozen network's features, for an adversarial loss.

It follows Sauer et al. 2021, "Projected GANs Converge Faster" (arXiv 2111.01007): the features of a network trained on
ImageNet are so much easier to judge that small heads and few pictures suffice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cassr_jax.models.checks import check_widths
from cassr_jax.models.layers import Conv
from cassr_jax.typing import FeatureMap, Features


@dataclass(frozen=True)
class DiscriminatorConfig:
    """`feature_channels` has the widths of the judged layers, by default the layers of VGG16 that LPIPS compares."""

    feature_channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden_channels: int = 64

    def __post_init__(self) -> None:
        check_widths(self)


class Discriminator(nnx.Module):
    """One head for each layer of features; each gives a map of logits."""

    def __init__(self, config: DiscriminatorConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config = config
        self.heads = nnx.List(
            [_Head(channels, config.hidden_channels, dtype=dtype, rngs=rngs) for channels in config.feature_channels]
        )

    def __call__(self, features: Sequence[FeatureMap]) -> list[Float[Array, "batch _ _ 1"]]:
        return [head(x) for head, x in zip(self.heads, features, strict=True)]


class _Head(nnx.Module):
    def __init__(self, channels: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv_in = Conv(channels, hidden, 1, dtype=dtype, rngs=rngs)
        self.conv_mid = Conv(hidden, hidden, 3, dtype=dtype, rngs=rngs)
        self.conv_out = Conv(hidden, 1, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features) -> Float[Array, "batch height width 1"]:
        for conv in (self.conv_in, self.conv_mid):
            x = nnx.leaky_relu(conv(x), 0.2)
        return self.conv_out(x)
