"""Pixels: 8 bit and the range [-1, 1] that the networks work in, blends, and sizes in words."""

from typing import TypeVar

import jax
import numpy as np

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)


def to_float(images: ArrayT) -> ArrayT:
    """uint8 [0, 255] -> float32 [-1, 1]; what lies on a device stays there."""
    return images.astype(np.float32) / 127.5 - 1


def to_uint8(images: np.ndarray | jax.Array) -> np.ndarray:
    """[-1, 1], of any floating type -> uint8 [0, 255], rounded and clipped, on the host. NaN becomes grey."""
    values = np.nan_to_num(np.asarray(images, np.float32))  # a copy, changed in place: pictures are large
    values += 1
    values *= 127.5
    return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)


def blended(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """`share` of picture `a` and the rest of `b`; uint8 (H, W, 3) each."""
    return to_uint8(share * to_float(a) + (1 - share) * to_float(b))


def size_text(picture: np.ndarray) -> str:
    """The size of a picture (H, W, ...) in words: "640x480 px"."""
    return f"{picture.shape[1]}x{picture.shape[0]} px"
