"""Every measure of one restored picture, and their summary over many."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from cassr_jax.evaluation.fidelity import luma, psnr, ssim
from cassr_jax.imaging.pixels import to_float
from cassr_jax.models.perceptual import Params, dists, lpips
from cassr_jax.weights.perceptual import dists_weights, lpips_weights

Values = dict[str, float]  # measure -> value
Measure = Callable[[np.ndarray, Sequence[np.ndarray]], list[Values]]


@dataclass(frozen=True)
class Column:
    """How a measure is printed: its title, its digits, and whether more of it is better."""

    title: str
    digits: int
    higher_is_better: bool


COLUMNS: Mapping[str, Column] = {
    "lpips": Column("LPIPS", 4, False),
    "dists": Column("DISTS", 4, False),
    "psnr_y": Column("PSNR-Y", 2, True),
    "ssim_y": Column("SSIM-Y", 4, True),
    "psnr_rgb": Column("PSNR-RGB", 2, True),
}


def make_measure(lpips_params: Any = None, dists_params: Any = None, vgg16_params: Any = None) -> Measure:
    """`measure(truth, pictures)`: the values of each picture, all uint8 RGB (H, W, 3) of one size.

    LPIPS is that of AlexNet, and of VGG16 beside it if `vgg16_params`, its weights, are given. The other published
    weights are read if they are not given. One size compiles once.

    Raises:
        InputError: the packages with the weights are not installed.
    """
    params = {
        "lpips": lpips_weights("alexnet") if lpips_params is None else lpips_params,
        "dists": dists_weights() if dists_params is None else dists_params,
    } | ({} if vgg16_params is None else {"lpips_vgg16": vgg16_params})
    functions = {"lpips": lpips, "dists": dists, "lpips_vgg16": partial(lpips, net="vgg16")}
    params = jax.device_put(params)

    @jax.jit
    def learned(params: Mapping[str, Params], images: jax.Array, truth: jax.Array) -> dict[str, jax.Array]:
        a, b = to_float(images), to_float(truth)
        return {name: functions[name](of, a, b) for name, of in params.items()}

    def measure(truth: np.ndarray, pictures: Sequence[np.ndarray]) -> list[Values]:
        distances = jax.device_get(learned(params, np.stack(pictures), truth[None]))
        return [
            {name: float(distance[i]) for name, distance in distances.items()}
            | {
                "psnr_y": psnr(luma(picture), luma(truth)),
                "ssim_y": ssim(luma(picture), luma(truth)),
                "psnr_rgb": psnr(picture, truth),
            }
            for i, picture in enumerate(pictures)
        ]

    return measure


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of the sample, n - 1; 0 of a single value)."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


def table(rows: Mapping[str, Sequence[Values]]) -> str:
    """A Markdown table: mean ± standard deviation over the pictures, one line for each kind of picture.

    Two further lines, when `reference` and `result` are among the kinds, compare them picture by picture: the mean
    difference ± its standard error, and in how many pictures the result is the better one.
    """
    titles = [f"{column.title} {'↑' if column.higher_is_better else '↓'}" for column in COLUMNS.values()]
    lines = [["picture", *titles]]
    for kind, values in rows.items():
        cells = []
        for name, column in COLUMNS.items():
            mean, deviation = spread([value[name] for value in values])
            cells.append(f"{mean:.{column.digits}f} ± {deviation:.{column.digits}f}")
        lines.append([kind, *cells])
    if {"reference", "result"} <= rows.keys():
        lines += _comparison(rows["reference"], rows["result"])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _comparison(reference: Sequence[Values], result: Sequence[Values]) -> list[list[str]]:
    differences, wins = ["result - reference"], ["result better"]
    for name, column in COLUMNS.items():
        values = [b[name] - a[name] for a, b in zip(reference, result, strict=True)]
        mean, deviation = spread(values)
        differences.append(f"{mean:+.{column.digits}f} ± {deviation / len(values) ** 0.5:.{column.digits}f}")
        better = sum(value > 0 if column.higher_is_better else value < 0 for value in values)
        wins.append(f"{better} of {len(values)}")
    return [differences, wins]
