"""Blur kernels of the two-order degradation: Gaussian, generalized, plateau-shaped and circular low-pass ones.

The definitions are those of Real-ESRGAN (Wang et al., arXiv 2107.10833). Every kernel is float32 (size, size) with an
odd size, sums to 1 and equals itself turned by 180 degrees. So it moves nothing, and correlation and convolution agree.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Range = tuple[float, float]

SIZES = tuple(range(7, 22, 2))
SHAPES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
SHAPE_PROBABILITIES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


@dataclass(frozen=True)
class KernelRanges:
    """The ranges that a blur kernel is drawn from."""

    sigma: Range  # standard deviation along each axis, in px
    sinc_prob: float = 0.1  # probability of a low-pass instead of a Gaussian-like kernel
    sizes: tuple[int, ...] = SIZES  # drawn uniformly
    beta_generalized: Range = (0.5, 4.0)  # exponent of a generalized Gaussian; 1 is the Gaussian
    beta_plateau: Range = (1.0, 2.0)  # exponent of a plateau-shaped kernel


def gaussian(size: int, sigma_x: float, sigma_y: float, rotation: float) -> np.ndarray:
    """A bivariate Gaussian, exp(-d / 2), where d is the squared Mahalanobis distance from the centre."""
    return _normalised(np.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, rotation)))


def generalized_gaussian(size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float) -> np.ndarray:
    """A bivariate generalized Gaussian, exp(-d^beta / 2) (Pascal et al., arXiv 1302.6498)."""
    return _normalised(np.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, rotation) ** beta))


def plateau(size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float) -> np.ndarray:
    """A plateau-shaped kernel, 1 / (1 + d^beta)."""
    return _normalised(1.0 / (1.0 + _squared_distance(size, sigma_x, sigma_y, rotation) ** beta))


def circular_lowpass(size: int, cutoff: float) -> np.ndarray:
    """An ideal, circularly symmetric low-pass with `cutoff` in radians per px (pi passes everything along an axis).

    It is the Fourier transform of the disc of radius c: c J1(c r) / (2 pi r) at radius r, c^2 / (4 pi) at the centre.
    """
    from scipy.special import j1  # imported only here, because no program but training needs scipy, which is slow

    x, y = _grid(size)
    radius = np.hypot(x, y)
    centre = radius == 0
    radius = np.where(centre, 1.0, radius)
    return _normalised(
        np.where(centre, cutoff**2 / (4 * math.pi), cutoff * j1(cutoff * radius) / (2 * math.pi * radius))
    )


def draw_blur(rng: np.random.Generator, ranges: KernelRanges) -> np.ndarray:
    """Draw a kernel for one of the two blurs."""
    size = int(rng.choice(ranges.sizes))
    if rng.random() < ranges.sinc_prob:
        # A small kernel cannot hold the wide ripples of a low cut-off.
        return circular_lowpass(size, rng.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi))
    shape = str(rng.choice(SHAPES, p=SHAPE_PROBABILITIES))
    sigma_x = sigma_y = uniform(rng, ranges.sigma)
    rotation = 0.0
    if shape.endswith("aniso"):
        sigma_y = uniform(rng, ranges.sigma)
        rotation = rng.uniform(-math.pi, math.pi)
    if shape.startswith("generalized"):
        return generalized_gaussian(size, sigma_x, sigma_y, rotation, _draw_beta(rng, ranges.beta_generalized))
    if shape.startswith("plateau"):
        return plateau(size, sigma_x, sigma_y, rotation, _draw_beta(rng, ranges.beta_plateau))
    return gaussian(size, sigma_x, sigma_y, rotation)


def draw_final_sinc(rng: np.random.Generator) -> np.ndarray:
    """Draw a kernel for the last filter."""
    return circular_lowpass(int(rng.choice(SIZES)), rng.uniform(math.pi / 3, math.pi))


def uniform(rng: np.random.Generator, range_: Range) -> float:
    """Draw a number uniformly from `range_`."""
    low, high = range_
    return float(rng.uniform(low, high))


def _draw_beta(rng: np.random.Generator, range_: Range) -> float:
    """Draw an exponent: below 1 with probability 1/2, wherever 1 lies in the range."""
    low, high = range_
    return rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high)


def _squared_distance(size: int, sigma_x: float, sigma_y: float, rotation: float) -> np.ndarray:
    """The squared Mahalanobis distances from the centre, axes turned by `rotation` radians; float64 (size, size)."""
    x, y = _grid(size)
    cos, sin = math.cos(rotation), math.sin(rotation)
    return ((cos * x + sin * y) / sigma_x) ** 2 + ((cos * y - sin * x) / sigma_y) ** 2


@lru_cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The x (along columns) and y (along rows) of every pixel of a kernel, with the centre at 0."""
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis.astype(np.float64), axis.astype(np.float64))
    return x, y


def _normalised(kernel: np.ndarray) -> np.ndarray:
    return (kernel / kernel.sum()).astype(np.float32)
