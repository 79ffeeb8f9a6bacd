"""NIQE, which judges a picture without a truth to compare with.

The method is that of Mittal, Soundararajan and Bovik 2013, "Making a Completely Blind Image Quality Analyzer", with its
published statistics of pristine photographs. It needs large pictures: a block is 96 px, and the covariance of the
blocks' features needs dozens of them.

The value depends on roundings: which way a grey half-way between two levels goes, and on which side of its
surroundings' mean a flat area lies. This module rounds as pyiqa does on a GPU, where most published values come from:
the grey, the window and the shrunk plane are float32, and the rest is float64.
"""

import importlib.util
import math
import zipfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import size_text

_BLOCK = 96
_FEATURES = 36
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_SHAPES = np.arange(0.2, 10.001, 0.001)  # shapes of the generalised Gaussians that are tried

Statistics = tuple[np.ndarray, np.ndarray]  # mean (36,) and covariance (36, 36)


def niqe(image: np.ndarray, pristine: Statistics | None = None) -> float:
    """NIQE of a picture; the lower, the more natural it looks.

    Args:
        image: uint8 RGB (H, W, 3), with sides of at least 192 px.
        pristine: what `pristine_statistics` gives; read if it is not given.

    Raises:
        InputError: the picture is smaller or flat all over, or the statistics are not installed.
    """
    rows, columns = (side // _BLOCK for side in image.shape[:2])
    if min(rows, columns) < 2:
        raise InputError(f"the picture is {size_text(image)}, expected sides of at least {2 * _BLOCK} px for NIQE")
    mean, covariance = pristine_statistics() if pristine is None else pristine
    plane = _grey(image[: rows * _BLOCK, : columns * _BLOCK])
    shrunk = _half((plane / 255).astype(np.float32)).astype(np.float64) * 255
    features = np.concatenate([_features(plane, _BLOCK), _features(shrunk, _BLOCK // 2)], axis=1)
    whole = features[np.isfinite(features).all(1)]  # a flat block has no shape
    if len(whole) < 2:
        raise InputError(
            "the picture has fewer than two blocks of 96 px with any texture, expected at least two for NIQE"
        )
    difference = mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


@cache
def pristine_statistics() -> Statistics:
    """The authors' statistics of pristine photographs, read from a file of the package basicsr 1.4.2.

    The package itself is not imported.

    Raises:
        InputError: the package is not installed, or its file is damaged.
    """
    spec = importlib.util.find_spec("basicsr")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("NIQE needs a file of the package basicsr: pip install --no-deps basicsr==1.4.2")
    path = Path(spec.submodule_search_locations[0]) / "metrics" / "niqe_pris_params.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = file["mu_pris_param"].reshape(-1), file["cov_pris_param"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if mean.shape != (_FEATURES,) or covariance.shape != (_FEATURES, _FEATURES):
        raise InputError(f"{path}: its arrays are {mean.shape} and {covariance.shape}, expected (36,) and (36, 36)")
    return mean, covariance


def _grey(image: np.ndarray) -> np.ndarray:
    """The grey of BT.601 of uint8 RGB (H, W, 3), rounded to whole levels; float64 (H, W).

    A GPU divides by 255 by multiplying with the reciprocal, and fuses each multiplication with the addition that
    follows, so that both are rounded once. The same is done here.
    """
    scaled = image.astype(np.float32) * np.float32(1 / 255)
    grey = scaled[..., 0] * _GREY[0]
    for channel in (1, 2):
        grey = (scaled[..., channel].astype(np.float64) * _GREY[channel] + grey).astype(np.float32)
    return np.round(grey * np.float32(255)).astype(np.float64)


def _features(plane: np.ndarray, block: int) -> np.ndarray:
    """The 18 features of every `block` px block of a plane (H, W); (blocks, 18)."""
    kernel = cv2.getGaussianKernel(7, 7 / 6)
    window = np.outer(kernel, kernel).astype(np.float32)  # sums to 1 + 1e-8, so a flat area lies below its mean

    def local_mean(x: np.ndarray) -> np.ndarray:
        return cv2.filter2D(x, cv2.CV_64F, window.astype(np.float64), borderType=cv2.BORDER_REPLICATE)

    mean = local_mean(plane)
    deviation = np.sqrt(np.abs(local_mean(plane * plane) - mean * mean))
    normalised = (plane - mean) / (deviation + 1)
    rows, columns = (side // block for side in plane.shape)
    blocks = normalised.reshape(rows, block, columns, block).swapaxes(1, 2).reshape(-1, block, block)
    alpha, left, right = _fit(blocks)
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right = _fit(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [alpha, (right - left) * np.exp(_log_gamma(2 / alpha) - _log_gamma(1 / alpha)), left, right]
    return np.stack(features, axis=1)


def _fit(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shape, left scale and right scale of the asymmetric generalised Gaussian that fits each block; (blocks,)."""
    x = blocks.reshape(len(blocks), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (np.sqrt(np.sum(np.square(x) * side, 1) / side.sum(1)) for side in (x < 0, x > 0))
        ratio = left / right
        moments = np.mean(np.abs(x), 1) ** 2 / np.mean(np.square(x), 1)
        target = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    table = _moment_ratios()  # it rises with the shape, so the nearest entry is next to the place of insertion
    after = np.clip(np.searchsorted(table, target), 1, len(table) - 1)
    nearest = np.where(target - table[after - 1] < table[after] - target, after - 1, after)
    alpha = _SHAPES[nearest]
    scale = np.sqrt(np.exp(_log_gamma(1 / alpha) - _log_gamma(3 / alpha)))
    return alpha, left * scale, right * scale


@cache
def _moment_ratios() -> np.ndarray:
    """(E|x|)^2 / E x^2 of the generalised Gaussian with each of `_SHAPES`."""
    return np.exp(2 * _log_gamma(2 / _SHAPES) - _log_gamma(1 / _SHAPES) - _log_gamma(3 / _SHAPES))


def _log_gamma(x: np.ndarray) -> np.ndarray:
    return np.array([math.lgamma(value) for value in x])


def _half(plane: np.ndarray) -> np.ndarray:
    """Halve a plane as MATLAB's `imresize(plane, 0.5)` does: bicubic, stretched to eight taps, edges mirrored."""
    distance = np.abs(np.arange(8) - 3.5) / 2
    near, far = 1.5 * distance**3 - 2.5 * distance**2 + 1, -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, far)
    taps /= taps.sum()
    for axis in (0, 1):
        plane = np.moveaxis(plane, axis, -1)
        padded = np.pad(plane, ((0, 0), (3, 3)), mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 8, axis=1)[:, ::2]
        plane = np.moveaxis(windows @ taps.astype(plane.dtype), -1, axis)
    return plane
