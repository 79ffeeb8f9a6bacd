"""Conversion of names and layouts between torch's state dicts and this program's parameters.

Attribute paths equal the published names, so the mapping is mechanical: the last part of a name (`weight`) becomes the
module's own word for it (`kernel`, `scale`, `embedding`), and kernels are transposed. The shapes of the module's
parameters decide which.
"""

from collections.abc import Mapping

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.models.parameters import Shapes

_FLAX_NAMES = ("kernel", "scale", "embedding")

Shape = tuple[int, ...]


def torch_name(name: str) -> str:
    """`conv_in.kernel` -> `conv_in.weight`; biases and bare parameters keep their name."""
    path, _, last = name.rpartition(".")
    return f"{path}.weight" if last in _FLAX_NAMES else name


def to_flax(name: str, array: np.ndarray, ndim: int) -> np.ndarray:
    """A torch array as a view in the layout of parameter `name` with `ndim` axes: OIHW -> HWIO, (out, in) -> (in, out).

    1x1 convolutions become matrices, and matrices 1x1 convolutions, if the module has the other form: checkpoints have
    both for the same layer.
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

    Raises `InputError` with a list of every missing, unexpected and wrongly shaped tensor; then nothing is loaded.
    """
    expected = {torch_name(name): torch_shapes(name, shape.shape) for name, shape in shapes.items()}
    check_tensors({name: array.shape for name, array in state.items()}, expected, source=source)
    return {name: to_flax(name, state[torch_name(name)], len(shape.shape)) for name, shape in shapes.items()}


def check_tensors(
    found: Mapping[str, Shape], expected: Mapping[str, tuple[Shape, ...]], *, source: str, hint: str = ""
) -> None:
    """Compare named shapes with the allowed shapes of each name, of which the first is the usual one.

    Raises `InputError` with the hint and a list of all missing, unexpected and wrongly shaped tensors.
    """
    lines = [f"missing     {name}, expected {shapes[0]}" for name, shapes in expected.items() if name not in found]
    lines += [
        f"wrong shape {name}, found {found[name]}, expected {shapes[0]}"
        for name, shapes in expected.items()
        if name in found and found[name] not in shapes
    ]
    lines += [f"unexpected  {name}, found {shape}" for name, shape in found.items() if name not in expected]
    if lines:
        count = f"{len(lines)} tensors do" if len(lines) > 1 else "1 tensor does"
        first = f"{source}: {count} not fit the model" + (f" ({hint})" if hint else "")
        raise InputError("\n  ".join([first, *lines]))


def torch_shapes(name: str, shape: Shape) -> tuple[Shape, ...]:
    """The shapes that the parameter `name` of `shape` may have in torch, the module's own form first."""
    if not _is_kernel(name):
        return (shape,)
    if len(shape) == 2:
        return shape[::-1], (*shape[::-1], 1, 1)
    own = (shape[3], shape[2], *shape[:2])
    return (own, own[:2]) if shape[:2] == (1, 1) else (own,)


def _is_kernel(name: str) -> bool:
    return name.endswith(".kernel")
