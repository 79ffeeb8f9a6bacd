"""Resizing: the one way to do it in this package, and the largest size allowed."""

import numpy as np
from PIL import Image

from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import DEEP

MAX_OUTPUT_PIXELS = 2**28  # 268 million: 3.2 GB as float32 RGB


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) after scaling, rounded, at least 1 px.

    Raises:
        InputError: the scale is not a positive number, or the result has more pixels than MAX_OUTPUT_PIXELS.
    """
    if not 0 < scale < float("inf"):
        raise InputError(f"scale is {scale}, expected a positive number")
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size[0] * size[1] > MAX_OUTPUT_PIXELS:
        raise InputError(
            f"{width}x{height} at scale {scale:g} gives {size[1]}x{size[0]} = {size[0] * size[1]} pixels, "
            f"expected at most {MAX_OUTPUT_PIXELS}: choose a smaller scale or crop"
        )
    return size


def working_size(size: tuple[int, int], least: int) -> tuple[int, int]:
    """The (height, width) at which a picture of that size is worked on: no side below `least` px, the same aspect."""
    if min(size) >= least:
        return size
    height, width = (max(least, round(side * least / min(size))) for side in size)
    return height, width


def bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 or uint16 (h, w) or (h, w, 3) to size (height, width); the LQ image is made by this function.

    It is Pillow's BICUBIC (a = -0.5, no mirrored borders, antialiased when shrinking), which SeeSR, PASD, DiffBIR and
    OSEDiff also use for their networks' input. OpenCV and torch have a = -0.75, which overshoots more.
    """
    height, width = size
    if image.dtype == DEEP:  # of which Pillow has no RGB
        planes = resized(image.reshape(*image.shape[:2], -1), size)
        return np.clip(np.rint(planes), 0, np.iinfo(DEEP).max).astype(DEEP).reshape(height, width, *image.shape[2:])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes numbers (h, w, C) to size (height, width) like `bicubic`, without rounding."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    planes = (
        Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        for plane in np.moveaxis(image, -1, 0)
    )
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
