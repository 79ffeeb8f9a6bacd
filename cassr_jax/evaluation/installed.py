"""The measures that are installed on this machine, and why the others are missing."""

from collections.abc import Mapping
from dataclasses import dataclass

from cassr_jax.evaluation.frechet import vgg16_distance
from cassr_jax.evaluation.measures import Measure, make_measure, read_naturalness, read_weights
from cassr_jax.evaluation.pyiqa_measures import SetMeasure, pyiqa_measures


@dataclass(frozen=True)
class Measures:
    """The measures that are installed.

    Attributes:
        of_pictures: measures each picture of a case.
        of_sets: measure -> its function of two folders.
        missing: measure -> why it is not installed. These belong to a comparison's settings: pictures measured before
            and after one is installed cannot be averaged together.
    """

    of_pictures: Measure
    of_sets: Mapping[str, SetMeasure]
    missing: Mapping[str, str]


def find_measures(vgg16: bool, devices: int | None) -> Measures:
    """Find every measure that is installed.

    Args:
        vgg16: whether the slow measures are wanted, which use VGG16's features.
        devices: see `make_measure`.

    Raises:
        InputError: there are fewer devices.
    """
    weights, missing = read_weights(["lpips", *(["lpips_vgg16"] if vgg16 else []), "dists"])
    blind, missing_niqe = read_naturalness()
    blind_pyiqa, of_sets, missing_pyiqa = pyiqa_measures()
    if vgg16 and "lpips_vgg16" in weights:
        of_sets["frechet_vgg16"] = vgg16_distance(weights["lpips_vgg16"], devices)
    of_pictures = make_measure(weights, blind | blind_pyiqa, devices)
    return Measures(of_pictures, of_sets, missing | missing_niqe | missing_pyiqa)
