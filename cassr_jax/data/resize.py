"""Resizing as the degradation's reference does it: torch's `interpolate`, on the host and without torch.

No mode smooths before it takes fewer samples (area apart), as torch's do not: the aliasing is part of the degradation.
"""

import cv2
import numpy as np

MODES = ("area", "bilinear", "bicubic")
_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def resize(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """Resize float32 (H, W, 3) to `size` (height, width) by "area", "bilinear" or "bicubic".

    Equals torch's `interpolate(..., size=size, mode=mode)` with `align_corners=False`, `antialias=False`: pixel
    centres at half integers, edges repeated, bicubic with a = -0.75. Bicubic results may leave the input's range.
    """
    height, width = size
    if mode == "area":
        return _adaptive_average(image, height, width)
    return cv2.resize(image, (width, height), interpolation=_INTERPOLATION[mode])


def _adaptive_average(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mean over bins of whole pixels, from floor(i H / h) to ceil((i + 1) H / h); neighbouring bins may share one.

    That is torch's "area"; OpenCV's INTER_AREA weights the pixels that a bin covers in part, so it is another thing.
    """
    sums = cv2.integral(image, sdepth=cv2.CV_64F)  # (H + 1, W + 1, 3), running sums
    top, bottom = _bins(image.shape[0], height)
    left, right = _bins(image.shape[1], width)
    strips = sums[bottom] - sums[top]
    area = (bottom - top)[:, None, None] * (right - left)[None, :, None]
    return ((strips[:, right] - strips[:, left]) / area).astype(np.float32)


def _bins(length: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(bins)
    return index * length // bins, -(-(index + 1) * length // bins)
