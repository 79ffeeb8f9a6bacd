"""Colour fixes: the restored picture's detail with the low-resolution picture's colours.

Pure functions on NumPy or JAX arrays alike (whichever is given is what comes back), traceable under `jit`. Pictures are
(H, W, C) or (B, H, W, C) floats in any range; each needs memory for three more pictures, its result among them. `adain`
and `wavelet` follow StableSR (arXiv 2305.07015, its script `wavelet_color_fix`), which the peers took over.
"""

from collections.abc import Callable
from typing import Any

Array = Any  # np.ndarray or jax.Array
WAVELET_LEVELS = 5
ADAIN_EPSILON = 1e-5
CONTRAST_EPSILON = 1e-6


def none(image: Array, source: Array) -> Array:
    """The image as it is."""
    del source
    return image


def adain(image: Array, source: Array) -> Array:
    """Gives each channel of `image` the mean and standard deviation of that channel of `source`.

    Adaptive instance normalisation (arXiv 1703.06868): unbiased variance over the picture, plus 1e-5. A single pixel
    has no variance; it becomes the source's colour.
    """

    def adapted(image: Array, source: Array) -> Array:
        image_mean, image_std = _mean_and_std(image)
        source_mean, source_std = _mean_and_std(source)
        return (image - image_mean) / image_std * source_std + source_mean

    return _by_channel(adapted, image, source)


def wavelet(image: Array, source: Array, levels: int = WAVELET_LEVELS) -> Array:
    """High frequencies of `image` plus low frequencies of `source`, of the same shape.

    Split by an undecimated (à trous) decomposition: `levels` binomial blurs [1 2 1] x [1 2 1] / 16 with holes of 1, 2,
    4, ... pixels, borders repeated. The blur is linear, so high(image) + low(source) = image + low(source - image).
    """
    return _by_channel(lambda image, source: image + _blurred(source - image, levels), image, source)


def contrast(image: Array, source: Array) -> Array:
    """Takes back the contrast that `image` has gained over `source`, and gives it the source's mean colour.

    The gain is the slope of the one against the other, each around its mean and blurred until the source has its
    detail too: [1 2 1] / 4 with holes of 1 and 2 pixels, borders repeated; over all channels. A gain below 1 is left:
    noise that was taken away looks the same.
    """
    xp = image.__array_namespace__()

    def mean(x: Array) -> Array:
        return xp.mean(x, axis=(-3, -2), keepdims=True)

    def products(image: Array, source: Array) -> Array:
        """(..., 2, 1, 1): the blurred source against the image and against itself."""
        low, wanted = (_blurred(x - mean(x), 2) for x in (image, source))
        return xp.concatenate([xp.sum(x * wanted, axis=(-3, -2), keepdims=True) for x in (low, wanted)], axis=-3)

    sums = xp.sum(_by_channel(products, image, source), axis=-1, keepdims=True)
    shared, own = sums[..., :1, :, :], sums[..., 1:, :, :]
    gain = xp.maximum(shared / (own + CONTRAST_EPSILON), 1.0)
    return _by_channel(lambda image, source: (image - mean(image)) / gain + mean(source), image, source)


COLOR_FIXES: dict[str, Callable[[Array, Array], Array]] = {
    "adain": adain,
    "contrast": contrast,
    "wavelet": wavelet,
    "none": none,
}


def _by_channel(function: Callable[[Array, Array], Array], image: Array, source: Array) -> Array:
    """`function` of one channel of both after the other: a third of the memory."""
    xp = image.__array_namespace__()
    channels = [slice(i, i + 1) for i in range(image.shape[-1])]
    return xp.concatenate([function(image[..., i], source[..., i]) for i in channels], axis=-1)


def _mean_and_std(image: Array) -> tuple[Array, Array]:
    """(..., 1, 1, C) each."""
    xp = image.__array_namespace__()
    freedom = 1 if image.shape[-3] * image.shape[-2] > 1 else 0
    variance = xp.var(image, axis=(-3, -2), keepdims=True, ddof=freedom)
    return xp.mean(image, axis=(-3, -2), keepdims=True), xp.sqrt(variance + ADAIN_EPSILON)


def _blurred(image: Array, levels: int) -> Array:
    for level in range(levels):
        image = _blur(_blur(image, -3, 2**level), -2, 2**level)
    return image


def _blur(image: Array, axis: int, radius: int) -> Array:
    """[1 2 1] / 4 with taps `radius` apart along one axis; the border pixel repeated however far a tap reaches."""
    xp = image.__array_namespace__()
    size = image.shape[axis]
    position = xp.arange(size)
    before = xp.take(image, xp.maximum(position - radius, 0), axis=axis)
    after = xp.take(image, xp.minimum(position + radius, size - 1), axis=axis)
    return 0.5 * image + 0.25 * (before + after)
