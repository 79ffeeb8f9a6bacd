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

# Ours -> pyiqa's name of the variant that the field's tables hold.
VARIANTS: Mapping[str, str] = {"musiq": "musiq", "maniqa": "maniqa-pipal", "clipiqa": "clipiqa", "fid": "fid"}

OfPicture = Callable[[np.ndarray], float]  # uint8 (H, W, 3)
OfSet = Callable[[Path, Path], float]  # folder of results, folder of truths


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
            reason = (str(error) or repr(error)).splitlines()[0]
            missing[name] = f"pyiqa's {variant} cannot be made ({reason})"
            continue
        if name == "fid":
            sets[name] = lambda results, truths, measure=measure: float(measure(str(results), str(truths)))
        else:
            pictures[name] = lambda picture, measure=measure: float(measure(_tensor(picture)))
    return pictures, sets, missing


@contextmanager
def linked(files: Iterable[Path]) -> Iterator[Path]:
    """A folder with links to these files and nothing else: a set's measures take whole folders."""
    with tempfile.TemporaryDirectory() as temporary:
        for i, file in enumerate(files):
            (Path(temporary) / f"{i:06d}{file.suffix}").symlink_to(file.resolve())
        yield Path(temporary)


def _tensor(picture: np.ndarray) -> Any:
    """torch float32 (1, 3, H, W) in [0, 1]."""
    torch: Any = importlib.import_module("torch")
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / 255)[None]
