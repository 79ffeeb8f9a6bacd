"""Pictures with transparency: the colours a network is shown, and the colours that go back beside the alpha.

A colour counts only as far as it is visible. A colour hidden under a faint alpha (black in a shadow, a palette's key
colour) would darken or fringe its neighbours when interpolated, so colours are multiplied by their alpha first.
"""

import math

import numpy as np
from PIL import Image

from cassr_jax.imaging.resizing import bicubic, resized

REACH = 4  # px: bicubic reads 2 to each side, and a network's response to an edge reaches about 2 more


def shown(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The colours a network is given, (H, W, 3), without edges that only hidden colours would cause.

    A pixel that is fainter than the strongest within `REACH` is blended with the mean of the visible colours around
    it, in proportion to its share of that strongest alpha. An invisible pixel takes the colour of the nearest visible
    one. A picture with nothing visible is returned unchanged.

    Args:
        rgb: (H, W, 3) uint8 or uint16.
        alpha: (H, W) uint8.
    """
    hidden = alpha == 0
    if alpha.min() == 255 or hidden.all():
        return rgb
    return _with_nearest(_laid_over_neighbours(rgb, alpha), hidden)


def beside(alpha: np.ndarray, rgb: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours and alpha of the result, (H, W, 3) of the colours' type and (H, W) uint8.

    The detail that the network added to its input is added to the bicubic enlargement of the colours multiplied by
    their alpha. An opaque picture comes back exactly as the network made it. Alpha is enlarged bicubically. It stays
    exactly the same where it is flat over the 4x4 pixels that bicubic reads, and never leaves the range of the alphas
    around it.

    Args:
        alpha: (h, w) uint8.
        rgb: (h, w, 3) uint8 or uint16, the colours beside that alpha.
        made: (H, W, 3) of the same type, the network's output for `shown(rgb, alpha)`.
    """
    size = made.shape[0], made.shape[1]
    enlarged = _within_neighbours(bicubic(alpha, size), alpha)
    if alpha.min() == 255:
        return made, enlarged
    given, result = shown(rgb, alpha), np.empty_like(made)
    weight = resized(alpha[..., None].astype(np.float32), size)[..., 0]
    shows, most = weight >= 0.5, np.iinfo(made.dtype).max
    for channel in range(3):
        before, weighted = (
            resized(plane[..., None].astype(np.float32), size)[..., 0]
            for plane in (given[..., channel], rgb[..., channel] * alpha.astype(np.float32))
        )
        before = np.clip(before, 0, most)
        after = np.clip(np.divide(weighted, weight, out=before.copy(), where=shows), 0, most)
        result[..., channel] = np.clip(np.rint(made[..., channel] + (after - before)), 0, most)
    return result, enlarged


def _within_neighbours(enlarged: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`enlarged` without bicubic's overshoot at hard edges, where something would show through or a rim be seen.

    It is clipped to the least and the greatest alpha beside the nearest pixel, or of all that a smaller picture mixes.
    """
    from scipy import ndimage  # which takes a while to import, and few pictures need

    height, width = enlarged.shape
    reach = math.ceil(max(1, alpha.shape[0] / height, alpha.shape[1] / width))
    side = 2 * reach + 1
    least, greatest = (
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.NEAREST))
        for plane in (ndimage.minimum_filter(alpha, side), ndimage.maximum_filter(alpha, side))
    )
    return np.clip(enlarged, least, greatest)


def _laid_over_neighbours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    from scipy import ndimage  # which takes a while to import, and few pictures need

    side = 2 * REACH + 1
    strength = alpha.astype(np.float32)
    share = strength / np.maximum(ndimage.maximum_filter(strength, side), 1)
    total = ndimage.uniform_filter(strength, side, mode="mirror")
    weighted = np.moveaxis(rgb * strength[..., None], -1, 0)
    around = np.stack([ndimage.uniform_filter(plane, side, mode="mirror") for plane in weighted], axis=-1)
    around /= np.maximum(total, 1 / side**2)[..., None]
    return np.rint(around + share[..., None] * (rgb - around)).astype(rgb.dtype)


def _with_nearest(rgb: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    if not hidden.any():
        return rgb
    from scipy import ndimage

    nearest = np.asarray(ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True))
    return rgb[tuple(nearest)]
