"""Colour fixes: the restored picture's detail with the low-resolution picture's colours.

Pure functions of NumPy or JAX arrays that return the kind they were given, traceable under `jit`. Pictures are
(H, W, C) or (B, H, W, C) floats in any range; each fix needs memory for three more pictures, its result included.
`adain` and `wavelet` follow StableSR (arXiv 2305.07015, its script `wavelet_color_fix`), as similar programs do.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")

WAVELET_LEVELS = 5
ADAIN_EPSILON = 1e-5
CONTRAST_EPSILON = 1e-6


def none(image: Array, source: Array) -> Array:
    """The image unchanged."""
    del source
    return image


def adain(image: Array, source: Array) -> Array:
    """Gives each channel of `image` the mean and standard deviation of the same channel of `source`.

    This is adaptive instance normalisation (arXiv 1703.06868), with the unbiased variance over the picture plus 1e-5.
    A single pixel has no variance and takes the source's colour.
    """

    def adapted(image: Array, source: Array) -> Array:
        image_mean, image_std = _mean_and_std(image)
        source_mean, source_std = _mean_and_std(source)
        return (image - image_mean) / image_std * source_std + source_mean

    return _by_channel(adapted, image, source)


def wavelet(image: Array, source: Array, levels: int = WAVELET_LEVELS) -> Array:
    """The high frequencies of `image` plus the low frequencies of `source`, which has the same shape.

    An undecimated (à trous) decomposition separates them: `levels` binomial blurs [1 2 1] x [1 2 1] / 16 with taps 1,
    2, 4, ... pixels apart and borders repeated. It is linear: high(image) + low(source) = image + low(source - image).
    """
    return _by_channel(lambda image, source: image + _blurred(source - image, levels), image, source)


def contrast(image: Array, source: Array) -> Array:
    """Removes the contrast that `image` has gained over `source`, and gives it the source's mean colour.

    The gain is the slope of `image` against `source` over all channels, with means subtracted and both blurred to the
    detail they share: [1 2 1] / 4 with taps 1 and 2 pixels apart and borders repeated. A gain below 1 is left alone,
    because denoising looks the same.
    """
    xp = image.__array_namespace__()

    def mean(x: Array) -> Array:
        return xp.mean(x, axis=(-3, -2), keepdims=True)

    def products(image: Array, source: Array) -> Array:
        """(..., 2, 1, 1): the blurred source's products with the blurred image and with itself."""
        low, wanted = (_blurred(x - mean(x), 2) for x in (image, source))
        return xp.concatenate([xp.sum(x * wanted, axis=(-3, -2), keepdims=True) for x in (low, wanted)], axis=-3)

    sums = xp.sum(_by_channel(products, image, source), axis=-1, keepdims=True)
    shared, own = sums[..., :1, :, :], sums[..., 1:, :, :]
    gain = xp.maximum(shared / (own + CONTRAST_EPSILON), 1.0)
    return _by_channel(lambda image, source: (image - mean(image)) / gain + mean(source), image, source)


class Fix(Protocol):
    """Gives `image` the colours of `source`."""

    def __call__(self, image: Array, source: Array) -> Array: ...


COLOR_FIXES: dict[str, Fix] = {
    "adain": adain,
    "contrast": contrast,
    "wavelet": wavelet,
    "none": none,
}


def _by_channel(function: Callable[[Array, Array], Array], image: Array, source: Array) -> Array:
    """Applies `function` to one channel at a time, which takes a third of the memory."""
    xp = image.__array_namespace__()
    channels = [slice(i, i + 1) for i in range(image.shape[-1])]
    return xp.concatenate([function(image[..., i], source[..., i]) for i in channels], axis=-1)


def _mean_and_std(image: Array) -> tuple[Array, Array]:
    """The mean and standard deviation of each channel, (..., 1, 1, C) each."""
    xp = image.__array_namespace__()
    freedom = 1 if image.shape[-3] * image.shape[-2] > 1 else 0
    variance = xp.var(image, axis=(-3, -2), keepdims=True, ddof=freedom)
    return xp.mean(image, axis=(-3, -2), keepdims=True), xp.sqrt(variance + ADAIN_EPSILON)


def _blurred(image: Array, levels: int) -> Array:
    def blur(level: int, image: Array) -> Array:
        return _blur(_blur(image, -3, 1 << level), -2, 1 << level)

    if not isinstance(image, np.ndarray):
        from jax.lax import fori_loop  # only here, since pictures are read without JAX

        # In one expression, XLA would compute a pixel of a level again for each of the pixels that it goes into.
        return fori_loop(0, levels, blur, image)
    for level in range(levels):
        image = blur(level, image)
    return image


def _blur(image: Array, axis: int, radius: int) -> Array:
    """Blurs along one axis by [1 2 1] / 4 with taps `radius` pixels apart, repeating the border pixel."""
    xp = image.__array_namespace__()
    size = image.shape[axis]
    position = xp.arange(size)
    before = xp.take(image, xp.maximum(position - radius, 0), axis=axis)
    after = xp.take(image, xp.minimum(position + radius, size - 1), axis=axis)
    return 0.5 * image + 0.25 * (before + after)
