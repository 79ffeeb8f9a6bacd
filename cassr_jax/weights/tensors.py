"""Tensors that are still in their file, and their conversion to the layout of a network."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cassr_jax.errors import InputError
from cassr_jax.models.parameters import Shapes
from cassr_jax.weights.configs import Config

Shape = tuple[int, ...]


class Tensor(Protocol):
    """A tensor whose shape and type are known, and whose numbers are read on demand."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self) -> np.ndarray: ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor at a place in a file."""

    path: Path
    offset: int
    shape: Shape
    dtype: np.dtype

    def read(self) -> np.ndarray:
        """A new array; reading the file instead of mapping it keeps its pages out of this process's memory."""
        array = aligned_empty(self.shape, self.dtype)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                raise InputError(f"{self.path}: the file became shorter while it was read")
        return array


@dataclass(frozen=True)
class ForeignTensor:
    """Something among the tensors whose type is unknown here; reading it raises an error that names the type."""

    what: str  # names it and its file
    kind: str

    @property
    def shape(self) -> Shape:
        return ()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(object)

    def read(self) -> np.ndarray:
        raise InputError(
            f"{self.what} has the type {self.kind}, expected numbers of a type that NumPy or ml_dtypes has"
        )


def type_name(tensor: Tensor) -> str:
    return tensor.kind if isinstance(tensor, ForeignTensor) else str(tensor.dtype)


@dataclass(frozen=True)
class Weights:
    """A network's weights in their file, known to fit, and read on demand.

    Attributes:
        path: the file.
        config: the network's config.
        shapes: the shapes of its parameters by name.
        dtypes: the types in which the file holds them.
        fetch: reads a parameter, in the module's axes and the file's type.
    """

    path: Path
    config: Config
    shapes: Shapes
    dtypes: Mapping[str, np.dtype]
    fetch: Callable[[str], np.ndarray]

    def read(self, name: str, dtype: DTypeLike | None = None) -> np.ndarray:
        """One parameter as an aligned C-contiguous array of `dtype`, by default the file's own, float32 for float64."""
        array = self.fetch(name)
        wide = np.dtype(np.float32) if array.dtype == np.float64 else array.dtype
        return contiguous(array, wide if dtype is None else jnp.dtype(dtype))


_ALIGNMENT = 64  # bytes; JAX's CPU back end takes such an array without a copy


def aligned_empty(shape: Shape, dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def contiguous(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array as an aligned C-contiguous array of `dtype`; it is not copied if it is one already.

    A transposed view is copied in blocks that stay in a core's cache, 2 to 7 times faster than NumPy's own order.
    """
    if array.dtype == dtype and array.flags.c_contiguous and array.ctypes.data % _ALIGNMENT == 0:
        return array
    result = aligned_empty(array.shape, dtype)
    if array.ndim < 2 or array.flags.c_contiguous:
        result[...] = array
        return result
    rows, columns = array.shape[-2:]
    for row in range(0, rows, 256):
        for column in range(0, columns, 16):
            block = (..., slice(row, row + 256), slice(column, column + 16))
            result[block] = array[block]
    return result
