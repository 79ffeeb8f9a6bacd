"""Pictures cut once into overlapping pieces: a crop of a piece costs far less than one of a picture of 8K."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.imaging import io


@dataclass(frozen=True)
class Cutting:
    """How pictures are cut.

    Attributes:
        size: side of a piece in px. A side of a picture that is shorter stays as long as it is.
        step: distance between neighbouring pieces in px, at most `size`.
        remainder: what is left of a side beyond the last whole step gets a piece of its own, which ends at the border,
            if it is more px than this.

    Raises:
        InputError: there would be gaps between the pieces.
    """

    size: int = 1024
    step: int = 768
    remainder: int = 0

    def __post_init__(self) -> None:
        if self.step > self.size:
            raise InputError(f"--step is {self.step}, expected at most --size, {self.size}: pieces leave no gaps")

    def begins(self, side: int) -> list[int]:
        """Where pieces begin along a side of a picture, in px."""
        last = max(side - self.size, 0)
        begins = list(range(0, last + 1, self.step))
        return [*begins, last] if last - begins[-1] > self.remainder else begins

    def pieces(self, rgb: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The place and the pixels of every piece of a picture (H, W, 3)."""
        for top in self.begins(rgb.shape[0]):
            for left in self.begins(rgb.shape[1]):
                yield _place(top, left), rgb[top : top + self.size, left : left + self.size]


def is_cut(key: str, output: Path, present: frozenset[str]) -> bool:
    """Whether all pieces of the picture `key` are among the files `present`, relative to `output`.

    A picture's first piece is written last, so it stands for all.
    """
    return _file(output, key, _place(0, 0)).relative_to(output).as_posix() in present


def cut(rgb: np.ndarray, key: str, output: Path, cutting: Cutting) -> int:
    """Write the pieces of a picture (H, W, 3) as PNG, its first piece last; returns their number.

    The piece of `sub/photo.jpg` whose corner lies 768 px below and 0 px right of the picture's is
    `sub/photo.jpg_y00768_x00000.png`.

    Raises:
        InputError: a file cannot be written.
    """
    first, *others = cutting.pieces(rgb)
    for place, piece in (*others, first):
        io.write(_file(output, key, place), io.Picture(piece))
    return 1 + len(others)


def _place(top: int, left: int) -> str:
    return f"y{top:05d}_x{left:05d}"


def _file(output: Path, key: str, place: str) -> Path:
    return output / f"{key}_{place}.png"
