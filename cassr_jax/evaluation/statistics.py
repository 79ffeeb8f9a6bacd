"""Means over pictures with their standard errors, and differences between two programs, picture by picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mean:
    """A mean, its standard error (NaN for fewer than two values), and the number of values."""

    value: float
    error: float
    count: int


@dataclass(frozen=True)
class Difference:
    """The mean of a program's values minus the baseline's, and on how many pictures the program is better."""

    mean: Mean
    better: int


def mean(values: Sequence[float]) -> Mean:
    """The mean of the values that are not NaN.

    The standard error is the sample's standard deviation, with n - 1 in its denominator, divided by the root of n. An
    infinite value, such as the PSNR of a perfect picture, leaves it undefined.
    """
    defined = np.asarray([value for value in values if not math.isnan(value)], np.float64)
    if not len(defined):
        return Mean(math.nan, math.nan, 0)
    known = len(defined) > 1 and bool(np.isfinite(defined).all())
    error = float(defined.std(ddof=1) / math.sqrt(len(defined))) if known else math.nan
    return Mean(float(defined.mean()), error, len(defined))


def difference(values: Sequence[float], baseline: Sequence[float], higher_is_better: bool) -> Difference:
    """Compare two programs' values of one measure, picture by picture; both are in the same order of pictures.

    Both values of a pair share the difficulty of its picture, so the standard error of the mean difference is far below
    that of either mean. A pair counts for neither program if one value is not defined or both are infinite.
    """
    differences = [
        a - b for a, b in zip(values, baseline, strict=True) if not (math.isinf(a) and math.isinf(b) and a == b)
    ]
    better = sum(value > 0 if higher_is_better else value < 0 for value in differences)
    return Difference(mean(differences), better)


def to_json(found: Mean) -> Mapping[str, float | int]:
    """A mean as an object of JSON."""
    return {"mean": found.value, "standard_error": found.error, "pictures": found.count}
