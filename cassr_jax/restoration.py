"""One picture on its way through the cascade: its sizes, what the second stage reads, and what is made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.imaging import memory, resizing
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.grey import as_grey_as
from cassr_jax.imaging.pixels import DEEP, to_float, to_integers


class Pair(NamedTuple):
    """What the second stage reads, (H, W, 3) uint8 or uint16 each, and the bicubic enlargement as large as the result.

    That is the LQ image itself, unless small pictures are worked on at a larger size.
    """

    lq: np.ndarray
    reference: np.ndarray
    bicubic: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures to be given."""
        return self.bicubic.shape[:2]


@dataclass(frozen=True)
class Restoration:
    """The pictures made from one input, (H, W, 3) each, of the input's type: uint8 or uint16.

    `bicubic` is the enlarged input and `reference` the first stage's picture. `result` is the second stage's picture,
    mixed with the reference by `reference_weight`. `seconds` is this picture's share of the time of the pictures that
    went through the networks together.
    """

    bicubic: np.ndarray
    reference: np.ndarray
    result: np.ndarray
    seconds: float = 0.0


def output_size(rgb: np.ndarray, scale: float) -> tuple[int, int]:
    """The size (height, width) of a picture's result.

    Raises:
        InputError: the picture is not RGB of uint8 or uint16, or the result would be too large.
    """
    array = isinstance(rgb, np.ndarray)
    if not array or rgb.dtype not in (np.uint8, DEEP) or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        found = f"{rgb.dtype} {rgb.shape}" if array else type(rgb).__name__
        raise InputError(
            f"the picture is {found}, expected an array (height, width, 3) of uint8 or uint16; `upscale` takes others"
        )
    size = resizing.output_size(rgb.shape[0], rgb.shape[1], scale)
    memory.check(*size)
    return size


def of_size(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) at a size (height, width)."""
    return image if image.shape[:2] == size else resizing.bicubic(image, size)


def finished(made: np.ndarray, lq: np.ndarray, color_fix: str) -> np.ndarray | None:
    """A stage's picture (H, W, 3), integers or float in [-1, 1], with its colours fixed, rounded to the type of `lq`.

    A grey input gives a grey picture: the networks would tint it. None stands for a picture that is not finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # the caller reports such numbers
        image = COLOR_FIXES[color_fix](made if made.dtype.kind == "f" else to_float(made), to_float(lq))
    return as_grey_as(lq, to_integers(image, lq.dtype)) if np.isfinite(image).all() else None


def timed(outcomes: Sequence[Restoration | Exception], seconds: float) -> list[Restoration | Exception]:
    """The outcomes of pictures that took so long together, each with its share by the size of its result."""
    sizes = [0 if isinstance(outcome, Exception) else outcome.result.size for outcome in outcomes]
    return [
        outcome if isinstance(outcome, Exception) else replace(outcome, seconds=seconds * size / sum(sizes))
        for outcome, size in zip(outcomes, sizes, strict=True)
    ]
