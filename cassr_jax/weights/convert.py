"""Names and layouts: torch's state dicts to this program's parameters and back.

Attribute paths equal the published names, so the mapping is mechanical: the last part of a name (`weight`) becomes what
the module at that path calls it (`kernel`, `scale`, `embedding`), and kernels are transposed. Which of these it is, the
module's own parameter shapes say.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.models.parameters import Params, Shapes

_FLAX_NAMES = ("kernel", "scale", "embedding")


def torch_name(name: str) -> str:
    """`conv_in.kernel` -> `conv_in.weight`; biases and bare parameters keep their name."""
    path, _, last = name.rpartition(".")
    return f"{path}.weight" if last in _FLAX_NAMES else name


def _is_kernel(name: str) -> bool:
    return name.endswith(".kernel")


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
    """The inverse of `to_flax` for the module's own form: HWIO -> OIHW, (in, out) -> (out, in)."""
    if not _is_kernel(name):
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def from_torch(state: Mapping[str, np.ndarray], shapes: Shapes, *, source: str = "checkpoint") -> Params:
    """Parameters for a module of these `shapes` from a torch state dict, as NumPy views in the module's layout.

    Raises `InputError` listing every missing, unexpected and wrongly shaped tensor; nothing is loaded by halves.
    """
    wanted = {torch_name(name): name for name in shapes}
    missing = [
        f"missing     {theirs}, expected {_theirs_shape(ours, shapes[ours].shape)}"
        for theirs, ours in wanted.items()
        if theirs not in state
    ]
    extra = [f"unexpected  {name}, found {tuple(state[name].shape)}" for name in state if name not in wanted]
    wrong, params = [], {}
    for theirs, ours in wanted.items():
        if theirs not in state:
            continue
        array = to_flax(ours, state[theirs], len(shapes[ours].shape))
        if array.shape != shapes[ours].shape:
            expected = _theirs_shape(ours, shapes[ours].shape)
            wrong.append(f"wrong shape {theirs}, found {tuple(state[theirs].shape)}, expected {expected}")
        params[ours] = array
    if missing or extra or wrong:
        raise InputError(_report(source, missing + wrong + extra))
    return params


def from_torch_names(names: Iterable[str], shapes: Shapes) -> dict[str, str]:
    """Which parameter each torch name belongs to, for the names that belong to one."""
    wanted = {torch_name(name): name for name in shapes}
    return {name: wanted[name] for name in names if name in wanted}


def to_torch_state(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A torch state dict of parameters; arrays are contiguous, as safetensors wants them."""
    return {torch_name(name): np.ascontiguousarray(to_torch(name, np.asarray(value))) for name, value in params.items()}


def _theirs_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not _is_kernel(name):
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _report(source: str, lines: list[str]) -> str:
    return f"{source}: {len(lines)} tensors do not fit the model\n  " + "\n  ".join(lines)
