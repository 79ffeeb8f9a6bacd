"""The networks of a cascade as folders: config.json and one weight file, in the format of diffusers.

Names and layouts on disk are torch's. U-Nets, ControlNets and autoencoders written here are folders that torch
diffusers loads, text encoders such that transformers loads.
"""

import functools
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cassr_jax.models.clip_text import CLIPTextConfig, CLIPTextModel, LearnedContext, LearnedContextConfig
from cassr_jax.models.controlnet import ControlNet, ControlNetConfig
from cassr_jax.models.multiple_attention import MultipleAttention
from cassr_jax.models.parameters import Params, Shapes, abstract
from cassr_jax.models.scedit import CSCTuner, SCEditConfig
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.models.vae import AutoencoderKL, VAEConfig
from cassr_jax.weights.configs import AttachedConfig, Config, read_config, write_config
from cassr_jax.weights.convert import match_torch, to_flax, to_torch, torch_name
from cassr_jax.weights.safetensors import StoredTensor, read_safetensors, write_safetensors

Put = Callable[[str, np.ndarray], jax.Array]


@dataclass(frozen=True)
class Component:
    """Where a kind of network lies in a diffusers folder."""

    folder: str
    stem: str

    @property
    def file(self) -> str:
        return f"{self.stem}.safetensors"


_DIFFUSERS = "diffusion_pytorch_model"
COMPONENTS: Mapping[str, Component] = {
    "vae": Component("vae", _DIFFUSERS),
    "unet": Component("unet", _DIFFUSERS),
    "text_encoder": Component("text_encoder", "model"),
    "controlnet": Component("controlnet", _DIFFUSERS),
    "scedit": Component("scedit", _DIFFUSERS),
    "multiple_attention": Component("multiple_attention", _DIFFUSERS),
}


def build(kind: str, config: Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> nnx.Module:
    """The network of a kind: `VAEConfig` for "vae", `UNetConfig` for "unet" and "multiple_attention", `CLIPTextConfig`
    or `LearnedContextConfig` for "text_encoder", `AttachedConfig` for "controlnet" and "scedit"."""
    match kind, config:
        case "vae", VAEConfig():
            return AutoencoderKL(config, dtype=dtype, rngs=rngs)
        case "unet", UNetConfig():
            return UNet(config, dtype=dtype, rngs=rngs)
        case "text_encoder", CLIPTextConfig():
            return CLIPTextModel(config, dtype=dtype, rngs=rngs)
        case "text_encoder", LearnedContextConfig():
            return LearnedContext(config, dtype=dtype, rngs=rngs)
        case "controlnet", AttachedConfig(unet, ControlNetConfig() as own):
            return ControlNet(unet, own, dtype=dtype, rngs=rngs)
        case "scedit", AttachedConfig(unet, SCEditConfig() as own):
            return CSCTuner(unet, own, dtype=dtype, rngs=rngs)
        case "multiple_attention", UNetConfig():
            return MultipleAttention(config, dtype=dtype, rngs=rngs)
    raise TypeError(f"{type(config).__name__} is not the config of a {kind}")


@functools.lru_cache(maxsize=16)
def component_shapes(kind: str, config: Config) -> Shapes:
    """Shapes of the parameters by name; nothing is computed."""
    return abstract(lambda rngs: build(kind, config, rngs=rngs))[1]


def write_component(
    folder: Path | str, kind: str, config: Config, params: Mapping[str, ArrayLike], *, dtype: DTypeLike | None = None
) -> None:
    """Write `folder`/config.json and its safetensors file; with `dtype`, floats are cast to it.

    Both files are replaced whole, never left half written.
    """
    shapes = component_shapes(kind, config)
    if wrong := sorted(
        set(shapes) ^ set(params)
        | {name for name in shapes if name in params and np.shape(params[name]) != shapes[name].shape}
    ):
        raise ValueError(f"parameters do not fit the {kind}: {wrong}")
    names = {_published_name(name): name for name in shapes}
    stored = {
        theirs: _published_layout(kind, ours, _placeholder(params[ours], dtype)) for theirs, ours in names.items()
    }

    def read(theirs: str) -> np.ndarray:
        array = np.asarray(params[names[theirs]])
        return _published_layout(kind, names[theirs], array.astype(stored[theirs].dtype, copy=False))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / "config.json", json.dumps(write_config(kind, config), indent=2, sort_keys=True) + "\n")
    write_safetensors(folder / COMPONENTS[kind].file, {name: (a.shape, a.dtype) for name, a in stored.items()}, read)


def read_component(
    folder: Path | str, kind: str, *, dtype: DTypeLike | None = None, put: Put | None = None
) -> tuple[Config, Params]:
    """Config and parameters of a folder that `write_component` or diffusers wrote.

    Without `dtype` the parameters keep the precision of the file. `put(name, array)` places each parameter on a device
    as it is read, by default on JAX's first.

    Raises:
        InputError: the config describes a network not built here, or tensors are missing, unexpected or wrongly
            shaped; the message lists them by name.
    """
    folder = Path(folder)
    config = read_config(kind, folder / "config.json")
    path = folder / COMPONENTS[kind].file
    return config, load_params(read_safetensors(path), component_shapes(kind, config), str(path), dtype=dtype, put=put)


def load_params(
    found: Mapping[str, StoredTensor],
    shapes: Shapes,
    source: str,
    *,
    dtype: DTypeLike | None = None,
    put: Put | None = None,
) -> Params:
    """Parameters from tensors under torch's names, one read after the other: no second copy of all is ever held."""
    names = match_torch(found, shapes, source=source)
    put = put or (lambda _, array: jax.device_put(array))

    def load(name: str) -> jax.Array:
        array = to_flax(name, found[names[name]].read(), len(shapes[name].shape))
        return put(name, np.ascontiguousarray(array, dtype))

    return {name: load(name) for name in shapes}


def _published_name(name: str) -> str:
    return torch_name(name)


_PROJECTION = re.compile(r"attentions\.\d+\.proj_(in|out)\.kernel$")


def _published_layout(kind: str, name: str, array: np.ndarray) -> np.ndarray:
    """torch's layout; the projections around a transformer are published as 1x1 convolutions."""
    array = to_torch(name, array)
    return array[:, :, None, None] if kind in ("unet", "controlnet") and _PROJECTION.search(name) else array


def _placeholder(value: ArrayLike, dtype: DTypeLike | None) -> np.ndarray:
    """An array of the shape and type that will be written, without its memory."""
    own = np.dtype(getattr(value, "dtype", np.float32))
    kept = dtype is None or not jnp.issubdtype(own, jnp.floating)
    return np.broadcast_to(np.zeros((), own if kept else jnp.dtype(dtype)), np.shape(value))


def _write_text(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


__all__ = ["COMPONENTS", "Component", "build", "component_shapes", "load_params", "read_component", "write_component"]
