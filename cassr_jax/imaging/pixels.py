"""Pixels: conversion between 8 bits and the networks' range [-1, 1], blends, and sizes in words."""

from typing import TypeVar

import jax
import numpy as np

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)


def to_float(images: ArrayT) -> ArrayT:
    """uint8 [0, 255] -> float32 [-1, 1]; a JAX array stays on its device."""
    return images.astype(np.float32) / 127.5 - 1


def to_uint8(images: np.ndarray | jax.Array) -> np.ndarray:
    """Any floating type in [-1, 1] -> uint8 [0, 255] on the host, rounded and clipped. NaN becomes grey."""
    values = np.nan_to_num(np.asarray(images, np.float32))  # a copy, changed in place: pictures are large
    values += 1
    values *= 127.5
    return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)


def blended(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """A mix of two pictures, uint8 (H, W, 3) each: `share` of `a`, the rest of `b`."""
    return to_uint8(share * to_float(a) + (1 - share) * to_float(b))


def size_text(picture: np.ndarray) -> str:
    """The size of a picture (H, W, ...) for a person: "640x480 px"."""
    return f"{picture.shape[1]}x{picture.shape[0]} px"
