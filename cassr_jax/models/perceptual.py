"""LPIPS and DISTS as pure, differentiable functions of two batches of images.

LPIPS: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", version 0.1 with
the linear heads. DISTS: Ding et al. 2020, "Image Quality Assessment: Unifying Structure and Texture Similarity".
The widths of the backbones are those of the weights (`cassr_jax.weights.perceptual`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

from cassr_jax.typing import FeatureList, FeatureMap, Features, Images

Backbone = Literal["alexnet", "vgg16"]
Params = Mapping[str, Array | np.ndarray]
Pictures = Float[Array | np.ndarray, "batch height width 3"]
# A batch of one is compared with every image of the other.
OneOrMore = Float[Array | np.ndarray, "#batch height width 3"]
Layer = Float[Array, "#batch _ _ _"]
Distances = Float32[Array, "batch"]

_VGG_BLOCKS = (2, 2, 3, 3, 3)  # convolutions between two poolings
# ImageNet's mean and standard deviation for images in [0, 1], and for LPIPS's [-1, 1] as its authors rounded them.
_MEAN, _STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
_LPIPS_SHIFT, _LPIPS_SCALE = np.array([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]], np.float32)


def lpips_features(
    params: Params, images: Pictures, net: Backbone = "alexnet", precision: lax.PrecisionLike = lax.Precision.HIGHEST
) -> FeatureList:
    """The five layers of features that LPIPS compares, from images in [-1, 1]."""
    return features(params, (jnp.asarray(images, jnp.float32) - _LPIPS_SHIFT) / _LPIPS_SCALE, net, precision)


def lpips_between(params: Params, a: Sequence[Layer], b: Sequence[Layer]) -> Distances:
    """LPIPS of two batches whose `lpips_features` are known; 0 for equal images.

    `params` are `lpips_weights(net)`. A batch of one is compared with every image of the other.
    """
    distances = []
    for i, (f, g) in enumerate(zip(a, b, strict=True)):
        squared = jnp.square(_unit(f) - _unit(g))  # (B, h, w, C)
        distances.append(jnp.mean(jnp.sum(squared * params[f"head.{i}"], axis=-1), axis=(1, 2)))
    return jnp.stack(distances).sum(0)


def dists_features(
    params: Params, images: Pictures, precision: lax.PrecisionLike = lax.Precision.HIGHEST
) -> FeatureList:
    """The six layers of features that DISTS compares; the first are the images themselves, in [0, 1].

    Args:
        params: `dists_weights()`.
        images: the images, in [-1, 1].
        precision: the precision of the convolutions.
    """
    x = (jnp.asarray(images, jnp.float32) + 1) / 2
    return [x, *_vgg(params, (x - _MEAN) / _STD, _l2_pool, precision)]


def dists_between(params: Params, a: Sequence[Layer], b: Sequence[Layer]) -> Distances:
    """DISTS of two batches whose `dists_features` are known; 0 for equal images.

    `params` are `dists_weights()`. A batch of one is compared with every image of the other.
    """
    total = jnp.sum(params["alpha"]) + jnp.sum(params["beta"])
    similarity, start = jnp.zeros(()), 0
    for f, g in zip(a, b, strict=True):
        channels = slice(start, start := start + f.shape[-1])
        f_mean, g_mean = jnp.mean(f, (1, 2), keepdims=True), jnp.mean(g, (1, 2), keepdims=True)
        f_var, g_var = (jnp.mean(jnp.square(x - m), (1, 2)) for x, m in ((f, f_mean), (g, g_mean)))
        covariance = jnp.mean((f - f_mean) * (g - g_mean), (1, 2))
        f_mean, g_mean = f_mean[:, 0, 0], g_mean[:, 0, 0]
        texture = (2 * f_mean * g_mean + 1e-6) / (f_mean**2 + g_mean**2 + 1e-6)  # (B, C)
        structure = (2 * covariance + 1e-6) / (f_var + g_var + 1e-6)
        similarity += jnp.sum(params["alpha"][channels] * texture + params["beta"][channels] * structure, -1) / total
    return 1 - similarity


def features(
    params: Params,
    x: Images,
    net: Backbone = "alexnet",
    precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> FeatureList:
    """Like `lpips_features`, for images that are already normalised."""
    if net == "vgg16":
        return _vgg(params, x, _max_pool_2, precision)
    result = []
    for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        if i in (1, 2):
            x = _max_pool_3(x)
        x = _conv(params, i, x, stride, padding, precision)
        result.append(x)
    return result


def _vgg(
    params: Params, x: Images, pool: Callable[[FeatureMap], FeatureMap], precision: lax.PrecisionLike
) -> FeatureList:
    result, layer = [], 0
    for block, count in enumerate(_VGG_BLOCKS):
        if block:
            x = pool(x)
        for _ in range(count):
            x = _conv(params, layer, x, 1, 1, precision)
            layer += 1
        result.append(x)
    return result


def _conv(params: Params, i: int, x: FeatureMap, stride: int, padding: int, precision: lax.PrecisionLike) -> FeatureMap:
    y = lax.conv_general_dilated(
        x,
        jnp.asarray(params[f"conv.{i}.kernel"]),
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    return jax.nn.relu(y + params[f"conv.{i}.bias"])


def _max_pool_3(x: Features) -> Float[Array, "batch _ _ channels"]:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")


def _max_pool_2(x: Features) -> Float[Array, "batch height//2 width//2 channels"]:
    # A tenth faster to differentiate, over the whole of VGG16 on a CPU, than a reduce_window.
    b, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def _l2_pool(x: Features) -> Float[Array, "batch (height+1)//2 (width+1)//2 channels"]:
    """The root of the locally weighted mean square, stride 2; the window is a 5-tap Hanning without its zero ends."""
    window = np.hanning(5)[1:-1]
    weights = (np.outer(window, window) / np.sum(window) ** 2).astype(np.float32)
    h, w = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
    squared = jnp.pad(jnp.square(x), ((0, 0), (1, 2), (1, 2), (0, 0)))  # room for odd sizes
    taps = (squared[:, i : i + 2 * h : 2, j : j + 2 * w : 2] * weights[i, j] for i in range(3) for j in range(3))
    return jnp.sqrt(sum(taps) + 1e-12)


def _unit(x: Features) -> Features:
    """Divides by the length over the channels; value and gradient are finite even if all of them are zero."""
    return x * lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-20)
