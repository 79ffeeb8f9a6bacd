"""Weights of other programs, from wherever they lie, as parameters of the networks here."""

import logging
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cassr_jax.errors import InputError
from cassr_jax.models.parameters import Params, Shapes
from cassr_jax.models.vae import VAEConfig
from cassr_jax.weights.configs import Config, describes, read_config
from cassr_jax.weights.files import SUFFIXES, Tensors, find_weights, read_tensors
from cassr_jax.weights.hub import fetch, is_hub_id
from cassr_jax.weights.layouts import Layout, match
from cassr_jax.weights.registry import COMPONENTS, component_shapes
from cassr_jax.weights.tensors import contiguous

logger = logging.getLogger(__name__)

Put = Callable[[str, np.ndarray], jax.Array]


def load_weights(
    source: str | Path,
    kind: str,
    *,
    config: Config | None = None,
    dtype: DTypeLike | None = None,
    put: Put | None = None,
    ema: bool = False,
) -> tuple[Config, Params]:
    """Config and parameters of one network ("vae", "unet", "text_encoder", "controlnet", "scedit", ...).

    `source` is a folder with config.json and weights, a folder that has such a one below it (`controlnet/`), a weight
    file in diffusers', Flax's or an original layout, or a hub id (`owner/name` or `owner/name:folder`). float32 files
    come before half precision where a folder has both.

    Args:
        config: overrides the config.json; needed where there is none and the widths are not Stable Diffusion 1.5's,
            which are assumed otherwise.
        dtype: of the parameters; that of the file where not given.
        put: places each parameter on a device as it is read, by default on JAX's first.
        ema: of a single file that holds two U-Nets, take the moving averages. The plain weights are the default.

    Raises:
        InputError: nothing usable is there, the config describes a network not built here, or tensors are missing,
            unexpected or wrongly shaped; the message lists them by name.
    """
    path = locate(source, kind)
    beside = path.parent / "config.json"
    # A folder is what its config says; beside a file that was named alone, config.json may belong to something else.
    described = describes(kind, beside) if Path(source) == path else beside.is_file()
    tensors = read_tensors(path)
    hint = ""
    if config is None and described:
        config = read_config(kind, beside)
    elif config is None:
        config = COMPONENTS[kind].sd15
        hint = f"without a config.json of a {kind} beside it, it should have the widths of Stable Diffusion 1.5"
        _check_assumption(kind, tensors, str(path))
    shapes = component_shapes(kind, config)
    layout = match(kind, tensors, shapes, str(path), ema=ema, hint=hint)
    return config, load_params(tensors, shapes, layout, dtype=dtype, put=put)


def load_params(
    tensors: Tensors, shapes: Shapes, layout: Layout, *, dtype: DTypeLike | None = None, put: Put | None = None
) -> Params:
    """Parameters from tensors that fit, one read after the other: no second copy of all is ever held."""
    put = put or (lambda _, array: jax.device_put(array))

    def load(name: str) -> jax.Array:
        array = layout.convert(name, tensors[layout[name]].read(), len(shapes[name].shape))
        wide = np.dtype(np.float32) if array.dtype == np.float64 else array.dtype
        return put(name, contiguous(array, wide if dtype is None else jnp.dtype(dtype)))

    return {name: load(name) for name in shapes}


def configuration(source: str | Path, kind: str) -> Config:
    """The config of a network whose weights need not be here: Stable Diffusion 1.5's, where no config.json is."""
    folders = [Path(source), *(Path(source) / name for name in COMPONENTS[kind].folders)]
    described = (folder / "config.json" for folder in folders if describes(kind, folder / "config.json"))
    return next((read_config(kind, file) for file in described), COMPONENTS[kind].sd15)


def locate(source: str | Path, kind: str) -> Path:
    """The weight file of a network: `source` itself, or the best one in or below that folder or hub id."""
    path = Path(source)
    if path.is_file():
        return path
    if not path.exists():
        if not is_hub_id(str(source)):
            raise InputError(
                f"{source}: there is no such file or folder, and it is no hub id (`owner/name` or `owner/name:folder`)"
            )
        path = fetch(str(source), kind)
    return _locate_in(path, kind)


def _locate_in(folder: Path, kind: str) -> Path:
    component = COMPONENTS[kind]
    candidates = [folder, *(folder / name for name in component.folders)]
    described = [place for place in candidates if describes(kind, place / "config.json")]
    for place in [*described, *candidates]:
        if weights := find_weights(place, component.files):
            return weights
    wanted = " or ".join(first for first, *_ in component.files[:2])
    places = f"in it or in its folder {component.folder}"
    loose = sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES)
    if loose:
        raise InputError(f"{folder}: there is no {wanted} {places}; if {', '.join(loose)} is meant, give that file")
    raise InputError(f"{folder}: there are no weights of a {kind}; {wanted} is expected {places}")


def _check_assumption(kind: str, tensors: Tensors, source: str) -> None:
    """An autoencoder's scaling factor is not among its weights, and that of another family distorts all colours."""
    if kind != "vae" or any(name.startswith("cond_stage_model.transformer.") for name in tensors):
        return
    factor = VAEConfig().scaling_factor
    if any(name.startswith("conditioner.embedders.") for name in tensors):
        raise InputError(f"{source}: it is of Stable Diffusion XL; its scaling_factor is not {factor}, give a config")
    logger.warning("%s: no config.json is beside it, so a scaling_factor of %s is assumed", source, factor)
