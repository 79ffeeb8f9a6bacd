"""Pictures without colour: a network draws them with a faint tint, which is taken out of its picture again."""

import numpy as np
from PIL import Image

from cassr_jax.imaging.pixels import DEEP

_LUMA = (0.299, 0.587, 0.114)


def is_grey(rgb: np.ndarray) -> bool:
    """Whether the three channels of a picture (H, W, 3) are equal."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    return np.array_equal(red, green) and np.array_equal(green, blue)


def as_grey_as(source: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """The picture `rgb` (H, W, 3), reduced to its luma (ITU-R BT.601) if `source` (h, w, 3) is grey.

    Both are uint8 or uint16.
    """
    if not is_grey(source):
        return rgb
    if rgb.dtype == DEEP:
        luma = np.rint(rgb @ np.array(_LUMA, np.float32)).astype(DEEP)
        return np.repeat(luma[..., None], 3, axis=-1)
    return np.repeat(np.asarray(Image.fromarray(rgb).convert("L"))[..., None], 3, axis=-1)
