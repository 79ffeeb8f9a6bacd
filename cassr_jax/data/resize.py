"""Resizing that equals torch's `interpolate`, which Real-ESRGAN's degradation uses, on the host and without torch.

Except for "area", no mode smooths the picture before it takes fewer samples. The aliasing is part of the degradation.
"""

import cv2
import numpy as np

MODES = ("area", "bilinear", "bicubic")
_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def resize(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """Resize float32 (H, W, 3) to `size` (height, width) by "area", "bilinear" or "bicubic".

    The result equals torch's `interpolate(..., size=size, mode=mode)` with `align_corners=False` and
    `antialias=False`: pixel centres lie at half integers, edges are repeated, and bicubic has a = -0.75. A bicubic
    result may exceed the range of its input.
    """
    height, width = size
    if mode == "area":
        return _adaptive_average(image, height, width)
    return cv2.resize(image, (width, height), interpolation=_INTERPOLATION[mode])


def _adaptive_average(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The means over bins of whole pixels, from floor(i H / h) to ceil((i + 1) H / h); neighbours may share a pixel.

    This is torch's "area". OpenCV's INTER_AREA differs: it weights the pixels that a bin covers only in part.
    """
    sums = cv2.integral(image, sdepth=cv2.CV_64F)  # (H + 1, W + 1, 3): running sums
    top, bottom = _bins(image.shape[0], height)
    left, right = _bins(image.shape[1], width)
    strips = sums[bottom] - sums[top]
    area = (bottom - top)[:, None, None] * (right - left)[None, :, None]
    return ((strips[:, right] - strips[:, left]) / area).astype(np.float32)


def _bins(length: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(bins)
    return index * length // bins, -(-(index + 1) * length // bins)
