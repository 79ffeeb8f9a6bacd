"""SCEdit's tuners, which steer a frozen U-Net by editing its skips (arXiv 2312.11392).

The names are those of the published weights (modelscope/scepter): tuner 0 belongs to the deepest skip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.checks import check_widths
from cassr_jax.models.layers import Conv, Identity, Linear
from cassr_jax.models.unet import UNetConfig
from cassr_jax.typing import FeatureList, FeatureMap, Features, Images

MOST_RATIO = 64


@dataclass(frozen=True)
class SCEditConfig:
    """The config of SCEdit.

    `hint_channels` are the widths of the hint encoder, which halves its input between them, three times for a VAE of
    factor 8. `ratio` is the hidden width of a tuner divided by its skip's width.
    """

    SHARED: ClassVar = ("block_out_channels", "layers_per_block")
    """The fields of its U-Net that the U-Net beside it must share."""

    hint_channels: tuple[int, ...] = (16, 32, 96, 256)
    ratio: float = 1.0
    control_scale: float = 1.0

    def __post_init__(self) -> None:
        check_widths(self)
        if not 0 < self.ratio <= MOST_RATIO:
            raise ValueError(f"ratio is {self.ratio}, expected a number above 0 and at most {MOST_RATIO}")

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.hint_channels) - 1)


class TunerOp(nnx.Module):
    """W2 GELU(W1 x) with the exact GELU; W2 is zero at the start."""

    def __init__(self, features: int, ratio: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        hidden = int(features * ratio)
        self.ln1 = Linear(features, hidden, dtype=dtype, rngs=rngs)
        self.ln2 = Linear(hidden, features, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features) -> Features:
        return self.ln2(jax.nn.gelu(self.ln1(x), approximate=False))


class SCTuner(nnx.Module):
    """The tuner of one skip.

    Without a hint it gives skip + W2 GELU(W1 skip), with one skip + scale * (hint + W2 GELU(W1 (skip + hint))).
    """

    def __init__(self, features: int, ratio: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.tuner_op = TunerOp(features, ratio, dtype=dtype, rngs=rngs)

    def __call__(self, skip: Features, hint: Features | None = None, scale: float = 1.0) -> Features:
        if hint is None:
            return skip + scale * self.tuner_op(skip)
        return skip + scale * (hint + self.tuner_op(skip + hint))


class CSCTuner(nnx.Module):
    """SCEdit with an image as condition: a hint encoder, and a hint and a tuner for every skip."""

    def __init__(self, unet: UNetConfig, config: SCEditConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.config = config
        widths = config.hint_channels
        convs = [Conv(3, widths[0], 3, **kwargs), Conv(widths[0], widths[0], 3, **kwargs)]
        for i in range(1, len(widths)):
            convs.append(Conv(widths[i - 1], widths[i], 3, stride=2, **kwargs))
            if i < len(widths) - 1:
                convs.append(Conv(widths[i], widths[i], 3, **kwargs))
        # Numbered as in the published sequence, which has activations between the convolutions.
        self.pre_hint_blocks = nnx.List([layer for conv in convs for layer in (conv, Identity())][:-1])
        dense, before = [], widths[-1]
        for channels, down in unet.skips:
            conv = Conv(before, channels, 3, stride=2 if down else 1, zero=True, **kwargs)
            dense.append(nnx.List([Identity(), conv]))
            before = channels
        self.dense_hint_blocks = nnx.List(dense)
        self.lsc_tuner_blocks = nnx.List(
            SCTuner(channels, config.ratio, **kwargs) for channels in reversed(unet.skip_channels)
        )

    def hints(self, images: Images) -> FeatureList:
        """Images in [0, 1] -> a hint for every skip, shallowest first; the same for all steps."""
        convs = self.pre_hint_blocks[::2]
        x = convs[0](images)
        for conv in convs[1:]:
            x = conv(nnx.silu(x))
        hints = []
        for block in self.dense_hint_blocks:
            x = block[1](nnx.silu(x))
            hints.append(x)
        return hints

    def __call__(self, skips: Sequence[FeatureMap], hints: Sequence[FeatureMap]) -> FeatureList:
        """The edited skips, shallowest first."""
        tuners = list(self.lsc_tuner_blocks)[::-1]
        scale = self.config.control_scale
        return [tuner(skip, hint, scale) for tuner, skip, hint in zip(tuners, skips, hints, strict=True)]
