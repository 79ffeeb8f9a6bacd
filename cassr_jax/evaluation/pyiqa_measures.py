"""Measures that only pyiqa and its published weights have: MUSIQ, MANIQA and CLIPIQA of a picture, FID of a set.

pyiqa is not a dependency. If it or the weights of a measure are missing, the measure is left out, with the reason.
"""

import importlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import SupportsFloat

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.evaluation.measures import BlindMeasure
from cassr_jax.imaging.pixels import size_text

# Our name -> pyiqa's name. Two variants of MANIQA are in use. A reader of SeeSR's paper, which prints 0.6198, measured
# 0.5050 with pyiqa's default, and the authors answered that they had used the PIPAL variant (github.com/cswry/SeeSR,
# issue 30). The CasSR paper puts SeeSR between 0.44 and 0.55, so it used the default.
VARIANTS: Mapping[str, str] = {
    "musiq": "musiq",
    "maniqa": "maniqa",
    "maniqa_pipal": "maniqa-pipal",
    "clipiqa": "clipiqa",
    "fid": "fid",
}

SetMeasure = Callable[[Path, Path], float]
"""(folder of results, folder of truths) -> the value; InputError if it is not defined for them."""


def pyiqa_measures() -> tuple[dict[str, BlindMeasure], dict[str, SetMeasure], dict[str, str]]:
    """(blind measures of pictures, measures of sets, why the others are missing); all by name."""
    try:
        pyiqa = importlib.import_module("pyiqa")
    except ImportError as error:
        return {}, {}, dict.fromkeys(VARIANTS, f"pyiqa cannot be imported ({error})")
    pictures, sets, missing = {}, {}, {}
    for name, variant in VARIANTS.items():
        try:
            measure = pyiqa.create_metric(variant, device="cpu")
        except Exception as error:  # each host of weights fails with an exception of its own
            missing[name] = f"pyiqa's {variant} cannot be made ({_first_line(error)})"
            continue
        if name == "fid":
            sets[name] = _set_measure(measure, variant)
        else:
            pictures[name] = _blind_measure(measure, variant)
    return pictures, sets, missing


@contextmanager
def linked(files: Iterable[Path]) -> Iterator[Path]:
    """A temporary folder with links to these files and nothing else, because measures of sets take whole folders."""
    with tempfile.TemporaryDirectory() as temporary:
        for i, file in enumerate(files):
            (Path(temporary) / f"{i:06d}{file.suffix}").symlink_to(file.absolute())
        yield Path(temporary)


def _blind_measure(measure: Callable[[object], SupportsFloat], variant: str) -> BlindMeasure:
    def judge(picture: np.ndarray) -> float:
        try:
            return float(measure(_tensor(picture)))
        except Exception as error:  # a picture that is too small fails somewhere inside torch
            raise InputError(f"pyiqa's {variant} cannot judge {size_text(picture)} ({_first_line(error)})") from error

    return judge


def _set_measure(measure: Callable[[str, str], SupportsFloat], variant: str) -> SetMeasure:
    def judge(results: Path, truths: Path) -> float:
        try:
            return float(measure(str(results), str(truths)))
        except Exception as error:  # as above
            raise InputError(f"pyiqa's {variant} cannot judge these pictures ({_first_line(error)})") from error

    return judge


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def _tensor(picture: np.ndarray) -> object:
    """torch float32 (1, 3, H, W) in [0, 1]."""
    torch = importlib.import_module("torch")
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / 255)[None]
