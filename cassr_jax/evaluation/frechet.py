"""The Frechet distance between two sets of pictures, as FID takes it, here on the features of VGG16 that are at hand.

It has a name of its own: FID is this distance on the features of one certain Inception network, which is not VGG16.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.data.sources import picture_files, read_rgb
from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import size_text, to_float
from cassr_jax.models.perceptual import Params, lpips_features
from cassr_jax.weights.perceptual import Weights

LEAST_SIDE = 16  # px; VGG16 halves a picture four times


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the normal distributions with the means and covariances of features (n, C) and (m, C), at least two each.

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)); A = X^T X and B = Y^T Y make the last trace the sum of the singular
    values of X Y^T, which needs no root of a matrix and is exact where there are fewer pictures than features.

    Raises:
        ValueError: another shape.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features (n, C) and (m, C) of two pictures or more are expected, found {a.shape}, {b.shape}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (a, b))
    difference = a.mean(0) - b.mean(0)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(difference @ difference + np.square(x).sum() + np.square(y).sum() - 2 * cross)


def vgg16_distance(weights: Weights) -> Callable[[Path, Path], float]:
    """`distance(made, truths)` of the pictures of two folders, on the mean over each picture of VGG16's last features.

    `weights` are `lpips_weights("vgg16")`. A file is looked at once, whatever links lead to it. The function raises
    InputError where a folder holds fewer than two pictures, or one too small for the network.
    """
    params = jax.device_put(weights)

    @jax.jit
    def last(params: Params, image: jax.Array) -> jax.Array:
        return jnp.mean(lpips_features(params, to_float(image), "vgg16")[-1], axis=(0, 1, 2))

    @cache
    def of_file(file: Path) -> np.ndarray:
        picture = read_rgb(file)
        if min(picture.shape[:2]) < LEAST_SIDE:
            raise InputError(f"found a picture of {size_text(picture)}, expected sides of at least {LEAST_SIDE} px")
        return np.asarray(last(params, picture[None]))

    def of_folder(folder: Path) -> np.ndarray:
        keys = picture_files(folder)
        if len(keys) < 2:
            raise InputError(f"found {len(keys)} picture, expected at least 2: one has no covariance")
        return np.stack([of_file((folder / key).resolve()) for key in keys])  # (n, 512)

    return lambda made, truths: frechet_distance(of_folder(made), of_folder(truths))
