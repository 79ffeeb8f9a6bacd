"""Colour fixes: the restored picture's detail with the low-resolution picture's colours.

Pure functions on NumPy or JAX arrays alike (whichever is given is what comes back), traceable under `jit`. Pictures are
(H, W, C) or (B, H, W, C) floats in any range; memory is a few copies of the picture. Both fixes follow StableSR
(arXiv 2305.07015, its script `wavelet_color_fix`), which the peers took over.
"""

from collections.abc import Callable
from typing import Any

Array = Any  # np.ndarray or jax.Array
WAVELET_LEVELS = 5
ADAIN_EPSILON = 1e-5


def none(image: Array, source: Array) -> Array:
    """The image as it is."""
    del source
    return image


def adain(image: Array, source: Array) -> Array:
    """Gives each channel of `image` the mean and standard deviation of that channel of `source`.

    Adaptive instance normalisation (arXiv 1703.06868): unbiased variance over the picture, plus 1e-5. A single pixel
    has no variance; it becomes the source's colour.
    """
    image_mean, image_std = _mean_and_std(image)
    source_mean, source_std = _mean_and_std(source)
    return (image - image_mean) / image_std * source_std + source_mean


def wavelet(image: Array, source: Array, levels: int = WAVELET_LEVELS) -> Array:
    """High frequencies of `image` plus low frequencies of `source`, of the same shape.

    Split by an undecimated (à trous) decomposition: `levels` binomial blurs [1 2 1] x [1 2 1] / 16 with holes of 1, 2,
    4, ... pixels, borders repeated. The blur is linear, so high(image) + low(source) = image + low(source - image).
    """
    low = source - image
    for level in range(levels):
        low = _blur(_blur(low, -3, 2**level), -2, 2**level)
    return image + low


COLOR_FIXES: dict[str, Callable[[Array, Array], Array]] = {"adain": adain, "wavelet": wavelet, "none": none}


def _mean_and_std(image: Array) -> tuple[Array, Array]:
    """(..., 1, 1, C) each."""
    xp = image.__array_namespace__()
    freedom = 1 if image.shape[-3] * image.shape[-2] > 1 else 0
    variance = xp.var(image, axis=(-3, -2), keepdims=True, ddof=freedom)
    return xp.mean(image, axis=(-3, -2), keepdims=True), xp.sqrt(variance + ADAIN_EPSILON)


def _blur(image: Array, axis: int, radius: int) -> Array:
    """[1 2 1] / 4 with taps `radius` apart along one axis; the border pixel repeated however far a tap reaches."""
    xp = image.__array_namespace__()
    size = image.shape[axis]
    position = xp.arange(size)
    before = xp.take(image, xp.maximum(position - radius, 0), axis=axis)
    after = xp.take(image, xp.minimum(position + radius, size - 1), axis=axis)
    return 0.5 * image + 0.25 * (before + after)
