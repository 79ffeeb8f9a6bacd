"""The Fréchet distance between two sets of pictures, on the features of VGG16.

FID is the same distance on the features of one particular Inception network. The weights of VGG16 are here anyway, as
a part of LPIPS; since they give other values, this measure has a name of its own.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.data.sources import picture_files, read_rgb
from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import size_text, to_float
from cassr_jax.models.perceptual import Params, lpips_features
from cassr_jax.sharding.mesh import local_devices
from cassr_jax.weights.perceptual import Weights

LEAST_SIDE = 16  # px; VGG16 halves a picture four times


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance between the normal distributions with the means and covariances of two sets of features.

    It is |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)). With A = X^T X and B = Y^T Y, the trace of (A B)^(1/2) is the
    sum of the singular values of X Y^T. That needs no root of a matrix, and is exact even with fewer pictures than
    features.

    Args:
        a: (n, C), with n at least 2.
        b: (m, C), with m at least 2.

    Raises:
        ValueError: the arrays have other shapes.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"the shapes are {a.shape} and {b.shape}, expected (n, C) and (m, C) of at least two pictures")
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (a, b))
    difference = a.mean(0) - b.mean(0)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(difference @ difference + np.square(x).sum() + np.square(y).sum() - 2 * cross)


def vgg16_distance(weights: Weights, devices: int | None = None) -> Callable[[Path, Path], float]:
    """The function `distance(made, truths)` of two folders of pictures.

    A picture's features are VGG16's last ones, averaged over the picture. A file is read once, however many links lead
    to it. The function raises InputError if a folder holds fewer than two pictures, or one too small for the network.

    Args:
        weights: what `lpips_weights("vgg16")` gives.
        devices: how many devices share the pictures; by default all accelerators of this process, or one CPU.
    """
    places = [(device, jax.device_put(weights, device)) for device in local_devices(devices)]
    known: dict[Path, np.ndarray] = {}

    @jax.jit
    def mean_features(params: Params, image: jax.Array) -> jax.Array:
        return jnp.mean(lpips_features(params, to_float(image), "vgg16")[-1], axis=(0, 1, 2))

    def folder_features(folder: Path) -> np.ndarray:
        files = [(folder / key).resolve() for key in picture_files(folder)]
        if len(files) < 2:
            raise InputError(f"found {len(files)} picture, expected at least 2: a single one has no covariance")
        left = [file for file in dict.fromkeys(files) if file not in known]
        for first in range(0, len(left), len(places)):
            together = {
                file: mean_features(params, jax.device_put(_picture(file)[None], device))
                for file, (device, params) in zip(left[first:], places, strict=False)
            }
            known.update(jax.device_get(together))
        return np.stack([known[file] for file in files])  # (n, 512)

    return lambda made, truths: frechet_distance(folder_features(made), folder_features(truths))


def _picture(file: Path) -> np.ndarray:
    picture = read_rgb(file)
    if min(picture.shape[:2]) < LEAST_SIDE:
        raise InputError(f"found a picture of {size_text(picture)}, expected sides of at least {LEAST_SIDE} px")
    return picture
