"""PSNR and SSIM of 8-bit pictures, as the super-resolution papers measure them: on the Y channel.

`psnr(luma(a), luma(b))` and `ssim(luma(a), luma(b))` equal pyiqa's values, which most published tables quote. They are
computed on the host in float64.
"""

import cv2
import numpy as np

_LUMA = np.array([65.481, 128.553, 24.966]) / 255


def luma(image: np.ndarray) -> np.ndarray:
    """The luma Y of ITU-R BT.601, 16 to 235, of an RGB picture (H, W, 3) in 0..255; float64 (H, W), not rounded."""
    return image.astype(np.float64) @ _LUMA + 16


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """The peak signal-to-noise ratio in dB of two arrays of the same shape in 0..255; infinite for equal arrays."""
    _same_shape(a, b)
    error = np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The structural similarity of two planes (H, W) in 0..255 with sides of at least 11; 1 for equal planes.

    As in Wang et al. 2004: an 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, whole windows only. As in
    pyiqa, the planes are first rounded to whole levels, and a negative structure counts as zero; each of these changes
    the third decimal.
    """
    _same_shape(a, b)
    if a.ndim != 2 or min(a.shape) < 11:
        raise ValueError(f"the shape is {a.shape}, expected a plane of at least 11x11")
    a, b = np.round(a.astype(np.float64)), np.round(b.astype(np.float64))
    a_mean, b_mean = _window_mean(a), _window_mean(b)
    a_var, b_var = _window_mean(a * a) - a_mean**2, _window_mean(b * b) - b_mean**2
    covariance = _window_mean(a * b) - a_mean * b_mean
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    brightness = (2 * a_mean * b_mean + c1) / (a_mean**2 + b_mean**2 + c1)
    structure = np.maximum((2 * covariance + c2) / (a_var + b_var + c2), 0)
    return float(np.mean(brightness * structure))


def _window_mean(plane: np.ndarray) -> np.ndarray:
    kernel = cv2.getGaussianKernel(11, 1.5)
    return cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel)[5:-5, 5:-5]


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"the shapes are {a.shape} and {b.shape}, expected the same shape twice")
