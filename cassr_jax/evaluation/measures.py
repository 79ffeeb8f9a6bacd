"""Measures of single pictures: LPIPS, DISTS, PSNR and SSIM against the truth, and blind ones, which need no truth."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import PyTree

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
BlindMeasure = Callable[[np.ndarray], float]
"""A picture, uint8 (H, W, 3) -> its value, without a truth to compare with; InputError if it is not defined."""


@dataclass(frozen=True)
class Learned:
    """A measure that is a distance between a network's features of two pictures.

    Attributes:
        read: reads the published weights; InputError if they are not installed.
        features: (weights, pictures (B, H, W, 3) in [-1, 1]) -> the features that are compared.
        between: (weights, features, the truth's features) -> the distances (B,).
        least_side: the shortest side of a picture, in px, for which the network has an output.
    """

    read: Callable[[], Weights]
    features: Callable[[Params, jax.Array], PyTree[jax.Array]]
    between: Callable[[Params, PyTree[jax.Array], PyTree[jax.Array]], jax.Array]
    least_side: int = 1


LEARNED: Mapping[str, Learned] = {
    "lpips": Learned(lambda: lpips_weights("alexnet"), partial(lpips_features, net="alexnet"), lpips_between, 31),
    "lpips_vgg16": Learned(lambda: lpips_weights("vgg16"), partial(lpips_features, net="vgg16"), lpips_between, 16),
    "dists": Learned(lambda: dists_weights(), dists_features, dists_between),
}
SSIM_SIDE = 11  # side of SSIM's window, in px


def read_weights(names: Sequence[str]) -> tuple[dict[str, Weights], dict[str, str]]:
    """Read the weights of the named measures of `LEARNED`; also return why some are missing, by measure."""
    weights, missing = {}, {}
    for name in names:
        try:
            weights[name] = LEARNED[name].read()
        except InputError as error:
            missing[name] = str(error)
    return weights, missing


def read_naturalness() -> tuple[dict[str, BlindMeasure], dict[str, str]]:
    """NIQE as a blind measure, or why it is missing; both by the measure's name."""
    try:
        statistics = pristine_statistics()
    except InputError as error:
        return {}, {"niqe": str(error)}
    return {"niqe": lambda picture: niqe(picture, statistics)}, {}


def make_measure(
    weights: Mapping[str, Weights], blind: Mapping[str, BlindMeasure] | None = None, devices: int | None = None
) -> Measure:
    """Make the function that measures PSNR, SSIM, the measures of `LEARNED` whose weights are given, and blind ones.

    Everything is computed in float32 or more, as the published values are. A device holds the truth's features and one
    picture at a time, so the memory depends on the size of a picture and not on the number of pictures.

    Args:
        weights: see `read_weights`.
        blind: blind measures by name.
        devices: how many devices share the pictures; by default all accelerators of this process, or one CPU.

    Raises:
        InputError: there are fewer devices.
    """
    places = [(device, jax.device_put(dict(weights), device)) for device in local_devices(devices)]

    @jax.jit
    def features(params: Mapping[str, Params], truth: jax.Array) -> dict[str, PyTree[jax.Array]]:
        return {name: LEARNED[name].features(own, to_float(truth)[None]) for name, own in params.items()}

    @jax.jit
    def distances(
        params: Mapping[str, Params], truth: Mapping[str, PyTree[jax.Array]], picture: jax.Array
    ) -> dict[str, jax.Array]:
        found = features(params, picture)
        return {name: LEARNED[name].between(own, found[name], truth[name])[0] for name, own in params.items()}

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
                distances(params, truth_features, jax.device_put(picture, device))
                for picture, (device, params, truth_features) in zip(pictures[first:], used, strict=False)
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
            for name, judge in (blind or {}).items():
                try:
                    values[name] = judge(picture)
                except InputError as error:
                    undefined.setdefault(name, str(error))
            result.append(values)
        return [{name: math.nan for name in undefined} | values for values in result], undefined

    return measure
