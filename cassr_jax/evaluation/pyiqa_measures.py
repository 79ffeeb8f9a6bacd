"""Measures that only pyiqa and its published weights have: MUSIQ, MANIQA, CLIPIQA of a picture, FID of a set.

pyiqa is no dependency. Where it or a measure's weights are missing, the measure is left out and the reason kept.
"""

import importlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.evaluation.measures import OfPicture
from cassr_jax.imaging.pixels import size_text

# Ours -> pyiqa's name. Two variants of MANIQA are in use. A reader of SeeSR found 0.5050 with pyiqa's default where its
# paper has 0.6198, and the authors answered that theirs is the PIPAL variant (github.com/cswry/SeeSR, issue 30). The
# CasSR paper has SeeSR between 0.44 and 0.55, so its figures are those of the default.
VARIANTS: Mapping[str, str] = {
    "musiq": "musiq",
    "maniqa": "maniqa",
    "maniqa_pipal": "maniqa-pipal",
    "clipiqa": "clipiqa",
    "fid": "fid",
}

OfSet = Callable[[Path, Path], float]
"""(folder of results, folder of truths) -> the value; InputError where it is not defined for them."""


def pyiqa_measures() -> tuple[dict[str, OfPicture], dict[str, OfSet], dict[str, str]]:
    """(measures of a picture, measures of a set, measure -> why it is missing)."""
    try:
        pyiqa: Any = importlib.import_module("pyiqa")
    except ImportError as error:
        return {}, {}, dict.fromkeys(VARIANTS, f"pyiqa cannot be imported ({error})")
    pictures, sets, missing = {}, {}, {}
    for name, variant in VARIANTS.items():
        try:
            measure = pyiqa.create_metric(variant, device="cpu")
        except Exception as error:  # a download that fails shows in as many kinds as there are hosts
            missing[name] = f"pyiqa's {variant} cannot be made ({_first_line(error)})"
            continue
        if name == "fid":
            sets[name] = _of_set(measure, variant)
        else:
            pictures[name] = _of_picture(measure, variant)
    return pictures, sets, missing


@contextmanager
def linked(files: Iterable[Path]) -> Iterator[Path]:
    """A folder with links to these files and nothing else: a set's measures take whole folders."""
    with tempfile.TemporaryDirectory() as temporary:
        for i, file in enumerate(files):
            (Path(temporary) / f"{i:06d}{file.suffix}").symlink_to(file.resolve())
        yield Path(temporary)


def _of_picture(measure: Callable[[Any], Any], variant: str) -> OfPicture:
    def of(picture: np.ndarray) -> float:
        try:
            return float(measure(_tensor(picture)))
        except Exception as error:  # a network that is given too small a picture fails somewhere within torch
            raise InputError(f"pyiqa's {variant} cannot judge {size_text(picture)} ({_first_line(error)})") from error

    return of


def _of_set(measure: Callable[[str, str], Any], variant: str) -> OfSet:
    def of(results: Path, truths: Path) -> float:
        try:
            return float(measure(str(results), str(truths)))
        except Exception as error:  # as above
            raise InputError(f"pyiqa's {variant} cannot judge these pictures ({_first_line(error)})") from error

    return of


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def _tensor(picture: np.ndarray) -> Any:
    """torch float32 (1, 3, H, W) in [0, 1]."""
    torch: Any = importlib.import_module("torch")
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / 255)[None]
