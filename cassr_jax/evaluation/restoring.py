"""What an evaluation restores pictures with: any function of this kind, a cascade or another program."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

KINDS = ("bicubic", "reference", "result")
"""The pictures that a cascade makes: the enlarged input, the first stage's picture, the second stage's."""


@dataclass(frozen=True)
class Request:
    """A picture to restore.

    Attributes:
        picture: (h, w, 3) uint8.
        seed: decides the noise.
        scale: the result's sides are so many times as long.
        prompt: the picture's own; None is the program's.
    """

    picture: np.ndarray
    seed: int
    scale: float
    prompt: str | None = None


@dataclass(frozen=True)
class Restored:
    """What was made of a picture: (H, W, 3) uint8 by program, and the seconds it took, if anything was made."""

    pictures: Mapping[str, np.ndarray]
    seconds: float | None = None


Restore = Callable[[Iterable[Request]], Iterator[Restored | Exception]]
"""Restores pictures in their order and reads as far ahead as it can restore at once. Some pictures give an error."""
