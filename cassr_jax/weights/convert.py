"""Names and layouts: torch's state dicts to this program's parameters and back.

Attribute paths equal the published names, so the mapping is mechanical: the last part of a name (`weight`) becomes what
the module at that path calls it (`kernel`, `scale`, `embedding`), and kernels are transposed. Which of these it is, the
module's own parameter shapes say.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.models.parameters import Shapes

_FLAX_NAMES = ("kernel", "scale", "embedding")

Shape = tuple[int, ...]


class HasShape(Protocol):
    """An array, or a tensor that still lies in its file."""

    @property
    def shape(self) -> Shape: ...


def torch_name(name: str) -> str:
    """`conv_in.kernel` -> `conv_in.weight`; biases and bare parameters keep their name."""
    path, _, last = name.rpartition(".")
    return f"{path}.weight" if last in _FLAX_NAMES else name


def to_flax(name: str, array: np.ndarray, ndim: int) -> np.ndarray:
    """A torch array in the layout of parameter `name` with `ndim` axes: OIHW -> HWIO, (out, in) -> (in, out).

    A view, nothing is copied. 1x1 convolutions become matrices, and matrices 1x1 convolutions, where the module has
    the other form: checkpoints have both for the same layer.
    """
    if not _is_kernel(name):
        return array
    if array.ndim == 4 and ndim == 2 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    elif array.ndim == 2 and ndim == 4:
        array = array[:, :, None, None]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch(name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_flax` for the module's own form: HWIO -> OIHW, (in, out) -> (out, in). A view."""
    if not _is_kernel(name):
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def from_torch(state: Mapping[str, np.ndarray], shapes: Shapes, *, source: str = "checkpoint") -> dict[str, np.ndarray]:
    """Parameters for a module of these `shapes` from a torch state dict, as NumPy views in the module's layout.

    Raises `InputError` listing every missing, unexpected and wrongly shaped tensor; nothing is loaded by halves.
    """
    names = match_torch(state, shapes, source=source)
    return {name: to_flax(name, state[theirs], len(shapes[name].shape)) for name, theirs in names.items()}


def match_torch(found: Mapping[str, HasShape], shapes: Shapes, *, source: str) -> dict[str, str]:
    """For every parameter of a module the name of its tensor in a torch state dict; no tensor is read.

    Raises `InputError` listing every missing, unexpected and wrongly shaped tensor.
    """
    names = {name: torch_name(name) for name in shapes}
    expected = {theirs: _torch_shape(name, shapes[name].shape) for name, theirs in names.items()}
    check_tensors({name: found[name].shape for name in found}, expected, source=source)
    return names


def check_tensors(found: Mapping[str, Shape], expected: Mapping[str, Shape], *, source: str) -> None:
    """Raise `InputError` listing all differences of two sets of named shapes; a matrix equals its 1x1 convolution."""
    lines = [f"missing     {name}, expected {shape}" for name, shape in expected.items() if name not in found]
    lines += [
        f"wrong shape {name}, found {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and _plain(found[name]) != _plain(shape)
    ]
    lines += [f"unexpected  {name}, found {shape}" for name, shape in found.items() if name not in expected]
    if lines:
        count = f"{len(lines)} tensors do" if len(lines) > 1 else "1 tensor does"
        raise InputError(f"{source}: {count} not fit the model\n  " + "\n  ".join(lines))


def to_torch_state(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A torch state dict of parameters; arrays are contiguous, as safetensors wants them."""
    return {torch_name(name): np.ascontiguousarray(to_torch(name, np.asarray(value))) for name, value in params.items()}


def element_count(shapes: Iterable[Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _is_kernel(name: str) -> bool:
    return name.endswith(".kernel")


def _torch_shape(name: str, shape: Shape) -> Shape:
    if not _is_kernel(name):
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _plain(shape: Shape) -> Shape:
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
