"""Masks that keep parts of a picture as they were: faces, writing, whatever must not be drawn anew."""

from pathlib import Path

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import is_file, is_folder
from cassr_jax.imaging import io
from cassr_jax.imaging.inputs import READABLE_SUFFIXES
from cassr_jax.imaging.pixels import shallow, size_text
from cassr_jax.imaging.resizing import resized

_CLOSE = 0.02  # by which the sides' ratio of a mask may differ from the picture's


def read_mask(path: Path, picture: np.ndarray) -> np.ndarray:
    """The mask in a picture file, (h, w) float32 in [0, 1]: white is protected, grey in part.

    Args:
        picture: the picture (H, W, 3) that it belongs to, of any size but the same shape.

    Raises:
        InputError: the file is no picture, or has another ratio of width to height.
    """
    mask = shallow(io.opaque(io.read(path))).mean(-1, dtype=np.float32) / 255
    ratio, expected = (each.shape[1] / each.shape[0] for each in (mask, picture))
    if abs(ratio / expected - 1) > _CLOSE:
        raise InputError(
            f"{path}: is {size_text(mask)} beside a picture of {size_text(picture)}, expected a mask of the same shape"
        )
    return mask


def protected(made: np.ndarray, kept: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture `made` (H, W, 3) with `kept`, of the same size and type, where the mask (h, w) is 1."""
    weight = np.clip(resized(mask[..., None], made.shape[:2]), 0, 1)
    return np.rint(made + weight * (kept.astype(np.float32) - made)).astype(made.dtype)


def mask_for(where: Path, stem: str) -> Path | None:
    """The file of a picture's mask: `where` itself, or the file of that stem in the folder `where`; None if none is.

    Raises:
        InputError: the folder holds several masks of that stem.
    """
    if not is_folder(where):
        return where
    found = [path for suffix in sorted(READABLE_SUFFIXES) if is_file(path := where / f"{stem}{suffix}")]
    if len(found) > 1:
        raise InputError(f"{where}: holds {' and '.join(path.name for path in found)}, expected one mask of a picture")
    return found[0] if found else None
