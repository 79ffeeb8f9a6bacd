"""The measures that compare one picture with its truth: LPIPS, DISTS, PSNR and SSIM; and those that judge it alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.evaluation.fidelity import luma, psnr, ssim
from cassr_jax.evaluation.naturalness import niqe, pristine_statistics
from cassr_jax.imaging.pixels import size_text, to_float
from cassr_jax.models.perceptual import Params, dists_between, dists_features, lpips_between, lpips_features
from cassr_jax.sharding.mesh import local_devices
from cassr_jax.weights.perceptual import Weights, dists_weights, lpips_weights

Values = dict[str, float]  # measure -> value; NaN where the measure is not defined
Undefined = dict[str, str]  # measure -> why it is not defined
Measure = Callable[[np.ndarray, Sequence[np.ndarray]], tuple[list[Values], Undefined]]
"""(truth (H, W, 3), pictures of that size) -> the values of each picture, and why some are NaN; all uint8 RGB."""
OfPicture = Callable[[np.ndarray], float]
"""A picture (H, W, 3) uint8 -> its value, judged without a truth; InputError where it is not defined."""


@dataclass(frozen=True)
class Learned:
    """A distance between the features of a network.

    Attributes:
        read: its published weights; InputError where they are not installed.
        features: (weights, pictures (B, H, W, 3) in [-1, 1]) -> what is compared.
        between: (weights, features, the truth's features) -> (B,).
        least_side: of a picture, in px; the network has no output for a smaller one.
    """

    read: Callable[[], Weights]
    features: Callable[[Params, jax.Array], Any]
    between: Callable[[Params, Any, Any], jax.Array]
    least_side: int = 1


LEARNED: Mapping[str, Learned] = {
    "lpips": Learned(lambda: lpips_weights("alexnet"), partial(lpips_features, net="alexnet"), lpips_between, 31),
    "lpips_vgg16": Learned(lambda: lpips_weights("vgg16"), partial(lpips_features, net="vgg16"), lpips_between, 16),
    "dists": Learned(lambda: dists_weights(), dists_features, dists_between),
}
SSIM_SIDE = 11  # of its window, in px


def read_weights(names: Sequence[str]) -> tuple[dict[str, Weights], dict[str, str]]:
    """The weights of each of `LEARNED` that is named and installed, and why the others are missing."""
    weights, missing = {}, {}
    for name in names:
        try:
            weights[name] = LEARNED[name].read()
        except InputError as error:
            missing[name] = str(error)
    return weights, missing


def read_naturalness() -> tuple[dict[str, OfPicture], dict[str, str]]:
    """NIQE, or why it is missing."""
    try:
        statistics = pristine_statistics()
    except InputError as error:
        return {}, {"niqe": str(error)}
    return {"niqe": lambda picture: niqe(picture, statistics)}, {}


def make_measure(
    weights: Mapping[str, Weights], alone: Mapping[str, OfPicture] | None = None, devices: int | None = None
) -> Measure:
    """PSNR, SSIM, every one of `LEARNED` whose weights are given, and what judges a picture alone.

    Everything is computed in float32 or more: the published values are. A device holds the truth's features and one
    picture at a time, so memory follows the size of a picture, not their number.

    Args:
        weights: see `read_weights`.
        alone: measure -> its function of a picture.
        devices: how many share the pictures; by default all accelerators of this process, or one CPU.

    Raises:
        InputError: there are fewer devices.
    """
    places = [(device, jax.device_put(dict(weights), device)) for device in local_devices(devices)]

    @jax.jit
    def features(params: Mapping[str, Params], truth: jax.Array) -> dict[str, Any]:
        return {name: LEARNED[name].features(of, to_float(truth)[None]) for name, of in params.items()}

    @jax.jit
    def distances(params: Mapping[str, Params], truth: Mapping[str, Any], picture: jax.Array) -> dict[str, jax.Array]:
        own = features(params, picture)
        return {name: LEARNED[name].between(of, own[name], truth[name])[0] for name, of in params.items()}

    def learned(truth: np.ndarray, pictures: Sequence[np.ndarray]) -> list[Values]:
        side = min(truth.shape[:2])
        defined = [name for name in weights if side >= LEARNED[name].least_side]
        used = []
        for device, params in places[: len(pictures)]:
            fitting = {name: params[name] for name in defined}
            used.append((device, fitting, features(fitting, jax.device_put(truth, device))))
        found: list[Values] = []
        for first in range(0, len(pictures), len(used)):
            together = [
                distances(params, of_truth, jax.device_put(picture, device))
                for picture, (device, params, of_truth) in zip(pictures[first:], used, strict=False)
            ]
            found += [{name: float(value) for name, value in values.items()} for values in jax.device_get(together)]
        return found

    def measure(truth: np.ndarray, pictures: Sequence[np.ndarray]) -> tuple[list[Values], Undefined]:
        size, side = size_text(truth), min(truth.shape[:2])
        least_sides = {name: LEARNED[name].least_side for name in weights} | {"ssim_y": SSIM_SIDE}
        undefined = {
            name: f"{size}, expected sides of at least {least} px"
            for name, least in least_sides.items()
            if side < least
        }
        result = []
        for picture, values in zip(pictures, learned(truth, pictures), strict=True):
            planes = luma(picture), luma(truth)
            values |= {"psnr_y": psnr(*planes), "psnr_rgb": psnr(picture, truth)}
            if "ssim_y" not in undefined:
                values["ssim_y"] = ssim(*planes)
            for name, of in (alone or {}).items():
                try:
                    values[name] = of(picture)
                except InputError as error:
                    undefined.setdefault(name, str(error))
            result.append(values)
        return [{name: math.nan for name in undefined} | values for values in result], undefined

    return measure
