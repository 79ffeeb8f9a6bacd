"""The networks of a cascade as folders: config.json and one weight file, in the format of diffusers.

Names and layouts on disk are torch's. U-Nets, ControlNets and autoencoders written here are folders that torch
diffusers loads, text encoders such that transformers loads.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from cassr_jax.errors import InputError
from cassr_jax.files import write_json
from cassr_jax.models.parameters import Params
from cassr_jax.weights.configs import AttachedConfig, Config, write_config
from cassr_jax.weights.convert import to_torch, torch_name
from cassr_jax.weights.layouts import is_float
from cassr_jax.weights.loading import Put, load_weights
from cassr_jax.weights.registry import COMPONENTS, Component, build, component_shapes
from cassr_jax.weights.safetensors import write_safetensors

__all__ = [
    "COMPONENTS",
    "AttachedConfig",
    "Component",
    "Config",
    "build",
    "component_shapes",
    "load_weights",
    "read_component",
    "write_component",
]

# Published as 1x1 convolutions, linear layers here.
_PROJECTION = re.compile(r"attentions\.\d+\.proj_(in|out)\.kernel$")


def write_component(
    folder: Path | str, kind: str, config: Config, params: Mapping[str, ArrayLike], *, dtype: DTypeLike | None = None
) -> None:
    """Write `folder`/config.json and its safetensors file; with `dtype`, floats are cast to it.

    Each file is replaced whole, never left half written. Raises `ValueError` where the parameters do not fit.
    """
    shapes = component_shapes(kind, config)
    found = {name: np.shape(value) for name, value in params.items()}
    if wrong := sorted(
        name for name in shapes.keys() | found if name not in shapes or found.get(name) != shapes[name].shape
    ):
        raise ValueError(f"parameters do not fit the {kind}: {', '.join(wrong)}")
    names = {torch_name(name): name for name in shapes}
    types = {name: _stored_type(params[name], dtype) for name in shapes}

    def read(theirs: str) -> np.ndarray:
        name = names[theirs]
        return _published(kind, name, np.asarray(params[name]).astype(types[name], copy=False))

    # Broadcasting gives the shapes of the published layout without any memory.
    views = {
        theirs: _published(kind, name, np.broadcast_to(np.zeros((), types[name]), found[name]))
        for theirs, name in names.items()
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", dict(sorted(write_config(kind, config).items())))
    write_safetensors(folder / COMPONENTS[kind].file, {name: (v.shape, v.dtype) for name, v in views.items()}, read)


def read_component(
    folder: Path | str, kind: str, *, dtype: DTypeLike | None = None, put: Put | None = None
) -> tuple[Config, Params]:
    """Config and parameters of a folder that `write_component` or diffusers wrote; see `load_weights`.

    Raises:
        InputError: `folder` or its config.json is absent, the config describes a network not built here, or tensors are
            missing, unexpected or wrongly shaped; the message lists them by name.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: there is no config.json; a folder of a {kind} in diffusers' format is expected")
    return load_weights(folder, kind, dtype=dtype, put=put)


def _published(kind: str, name: str, array: np.ndarray) -> np.ndarray:
    array = to_torch(name, array)
    return array[:, :, None, None] if kind in ("unet", "controlnet") and _PROJECTION.search(name) else array


def _stored_type(value: ArrayLike, dtype: DTypeLike | None) -> np.dtype:
    own = np.dtype(getattr(value, "dtype", np.float32))
    return own if dtype is None or not is_float(own) else jnp.dtype(dtype)
