"""RRDBNet, the one-pass super-resolution network of ESRGAN (Wang et al. 2018), BSRGAN and Real-ESRGAN.

Attribute paths equal those of basicsr's `RRDBNet`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cassr_jax.models.checks import check_depth, check_widths
from cassr_jax.models.layers import Conv
from cassr_jax.typing import Features, Images


@dataclass(frozen=True)
class RRDBNetConfig:
    """basicsr's field names; the defaults are Real-ESRGAN x4plus and BSRGAN."""

    num_in_ch: int = 3
    num_out_ch: int = 3
    num_feat: int = 64
    num_block: int = 23
    num_grow_ch: int = 32
    scale: int = 4  # 4, 2 or 1; below 4 the input is folded into channels first

    def __post_init__(self) -> None:
        check_depth("num_block", self.num_block)
        check_widths(self)
        if self.scale not in (1, 2, 4):
            raise ValueError(f"scale is {self.scale}, expected 1, 2 or 4")


def leaky_relu(x: Features) -> Features:
    return jax.nn.leaky_relu(x, 0.2)


def upsample(x: Features) -> Float[Array, "batch 2*height 2*width channels"]:
    """Doubles the size by repeating pixels."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def pixel_unshuffle(
    x: Features, factor: int
) -> Float[Array, "batch height//{factor} width//{factor} channels*{factor}**2"]:
    """Folds squares of `factor` pixels into channels, in torch's order."""
    batch, height, width, channels = x.shape
    if height % factor or width % factor:
        raise ValueError(f"image of {height}x{width} pixels, expected multiples of {factor}")
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // factor, width // factor, -1)


class ResidualDenseBlock(nnx.Module):
    """Five convolutions, each of which reads the output of all before it."""

    def __init__(self, config: RRDBNetConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        feat, grow = config.num_feat, config.num_grow_ch
        self.conv1 = Conv(feat, grow, 3, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(feat + grow, grow, 3, dtype=dtype, rngs=rngs)
        self.conv3 = Conv(feat + 2 * grow, grow, 3, dtype=dtype, rngs=rngs)
        self.conv4 = Conv(feat + 3 * grow, grow, 3, dtype=dtype, rngs=rngs)
        self.conv5 = Conv(feat + 4 * grow, feat, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features) -> Features:
        # Splitting the kernels by input, to avoid the concatenations, was no faster on a CPU.
        h = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            h = jnp.concatenate([h, leaky_relu(conv(h))], axis=-1)
        return x + 0.2 * self.conv5(h)


class RRDB(nnx.Module):
    """Three dense blocks with a residual connection around them."""

    def __init__(self, config: RRDBNetConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.rdb1 = ResidualDenseBlock(config, dtype=dtype, rngs=rngs)
        self.rdb2 = ResidualDenseBlock(config, dtype=dtype, rngs=rngs)
        self.rdb3 = ResidualDenseBlock(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features) -> Features:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nnx.Module):
    """RGB in [0, 1], (B, H, W, 3) -> (B, scale H, scale W, 3), about [0, 1] and not clipped.

    The checkpoints expect this range; the diffusion networks have [-1, 1].
    """

    def __init__(self, config: RRDBNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.unshuffle = 4 // config.scale
        feat = config.num_feat
        self.conv_first = Conv(config.num_in_ch * self.unshuffle**2, feat, 3, dtype=dtype, rngs=rngs)
        self.body = nnx.List([RRDB(config, dtype=dtype, rngs=rngs) for _ in range(config.num_block)])
        self.conv_body = Conv(feat, feat, 3, dtype=dtype, rngs=rngs)
        self.conv_up1 = Conv(feat, feat, 3, dtype=dtype, rngs=rngs)
        self.conv_up2 = Conv(feat, feat, 3, dtype=dtype, rngs=rngs)
        self.conv_hr = Conv(feat, feat, 3, dtype=dtype, rngs=rngs)
        self.conv_last = Conv(feat, config.num_out_ch, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: Images) -> Float[Array, "batch _ _ 3"]:
        h = self.conv_first(pixel_unshuffle(x, self.unshuffle))
        h = h + self.conv_body(self._blocks(h))
        h = leaky_relu(self.conv_up1(upsample(h)))
        h = leaky_relu(self.conv_up2(upsample(h)))
        return self.conv_last(leaky_relu(self.conv_hr(h)))

    def _blocks(self, x: Features) -> Features:
        # One loop over stacked parameters, not 23 copies of the same code: it compiles in 1 s instead of 10 and runs as
        # fast.
        graphdef = nnx.graphdef(self.body[0])
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(block) for block in self.body))
        return jax.lax.scan(lambda h, state: (nnx.merge(graphdef, state)(h), None), x, stacked)[0]
