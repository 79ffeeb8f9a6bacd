"""Pixels: conversion between 8 or 16 bits and the networks' range [-1, 1], blends, and sizes in words."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

ArrayT = TypeVar("ArrayT", np.ndarray, "jax.Array")


DEEP = np.dtype(np.uint16)
"""The type of a picture with 16 bits per sample; all others are uint8."""


def to_float(images: ArrayT) -> ArrayT:
    """uint8 [0, 255] or uint16 [0, 65535] -> float32 [-1, 1]; a JAX array stays on its device."""
    return images.astype(np.float32) / (np.iinfo(images.dtype).max / 2) - 1


def to_uint8(images: "np.ndarray | jax.Array") -> np.ndarray:
    """Any floating type in [-1, 1] -> uint8 [0, 255] on the host, rounded and clipped. NaN becomes grey."""
    return to_integers(images, np.dtype(np.uint8))


def to_integers(images: "np.ndarray | jax.Array", dtype: np.dtype) -> np.ndarray:
    """Any floating type in [-1, 1] -> uint8 or uint16 on the host, rounded and clipped. NaN becomes grey."""
    most = np.iinfo(dtype).max
    values = np.nan_to_num(np.asarray(images, np.float32))  # a copy, changed in place: pictures are large
    values += 1
    values *= most / 2
    return np.clip(np.rint(values, out=values), 0, most, out=values).astype(dtype)


def deepened(image: np.ndarray) -> np.ndarray:
    """uint8 [0, 255] -> uint16 [0, 65535], the same colours; uint16 as it is."""
    return image if image.dtype == DEEP else image.astype(DEEP) * 257


def shallow(image: np.ndarray) -> np.ndarray:
    """uint16 [0, 65535] -> uint8 [0, 255], the nearest colours; uint8 as it is."""
    return image if image.dtype != DEEP else ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def blended(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """A mix of two pictures, (H, W, 3) uint8 or uint16 both: `share` of `a`, the rest of `b`."""
    return to_integers(share * to_float(a) + (1 - share) * to_float(b), a.dtype)


def size_text(picture: np.ndarray) -> str:
    """The size of a picture (H, W, ...) for a person: "640x480 px"."""
    return f"{picture.shape[1]}x{picture.shape[0]} px"
