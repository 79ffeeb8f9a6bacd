"""Weight files in the layouts in which people have them, made from random weights under diffusers' names."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np

from cassr_jax.kinds import KINDS
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.parameters import Params
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import shapes_of, write_network
from cassr_jax.weights.configs import AttachedConfig, Config
from cassr_jax.weights.convert import to_torch, torch_name
from cassr_jax.weights.original import controlnet_names, unet_names, vae_names
from cassr_jax.weights.safetensors import write_safetensors
from tests.narrow import random_params

Arrays = Mapping[str, np.ndarray]

UNET = UNetConfig(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(8, 16),
    attention_head_dim=2,
    cross_attention_dim=6,
    norm_num_groups=4,
    layers_per_block=1,
)
VAE = VAEConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
CONTROLNET = AttachedConfig(UNET, ControlNetConfig(conditioning_embedding_out_channels=(4, 6)))
SCEDIT = AttachedConfig(UNET, SCEditConfig(hint_channels=(4, 6)))

OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def random_component(kind: str, config: Config, seed: int = 0) -> Params:
    return random_params(shapes_of(kind, config), seed)


def load_weights(source: Path | str, kind: str, *, config: Any = None, dtype: Any = None) -> tuple[Any, Arrays]:
    """Config and parameters; `config` is what a file without one is taken to be, instead of Stable Diffusion 1.5's."""
    files: Any = KINDS[kind].files
    files = files if config is None else replace(files, sd15=config)
    weights = files.open(source, KINDS[kind].shapes)
    return weights.config, {name: weights.read(name, dtype) for name in weights.shapes}


def save(path: Path, state: Arrays) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {name: (a.shape, a.dtype) for name, a in state.items()}, state.__getitem__)
    return path


def save_sharded(folder: Path, stem: str, state: Arrays, *, shards: int = 2, infix: str = "") -> Path:
    """Shards and their index; the variant's name stands where diffusers puts it."""
    names = list(state)
    variant = f".{infix}" if infix else ""
    files = [f"{stem}{variant}-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    for i, file in enumerate(files):
        save(folder / file, {name: state[name] for name in names[i::shards]})
    index = {"metadata": {}, "weight_map": {name: files[i % shards] for i, name in enumerate(names)}}
    path = folder / f"{stem}.safetensors.index{variant}.json"
    path.write_text(json.dumps(index))
    return path


def save_flax(path: Path, params: Arrays, *, dots: bool = False) -> Path:
    """Our parameters under Flax's names: numbered with an underscore, or with a dot as transformers has them."""
    tree: dict = {}
    for name, value in params.items():
        *parents, last = name.split(".")
        if not dots:
            joined: list[str] = []
            for part in parents:
                if part.isdigit():
                    joined[-1] += f"_{part}"
                else:
                    joined.append(part)
            parents = joined
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = np.asarray(value)
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    return path


def old_attention(state: Arrays) -> dict[str, np.ndarray]:
    return {_replace(name, OLD_ATTENTION): value for name, value in state.items()}


def original(kind: str, state: Arrays, prefix: str) -> dict[str, np.ndarray]:
    rename = {"unet": unet_names, "vae": vae_names, "controlnet": controlnet_names}[kind](state)
    return {prefix + rename[name]: value for name, value in state.items()}


def torch_state(params: Arrays) -> dict[str, np.ndarray]:
    """A torch state dict of parameters; arrays are contiguous, as safetensors wants them."""
    return {torch_name(name): np.ascontiguousarray(to_torch(name, np.asarray(value))) for name, value in params.items()}


def bfloat16(state: Arrays) -> dict[str, np.ndarray]:
    return {name: value.astype(ml_dtypes.bfloat16) for name, value in state.items()}


def half(state: Arrays) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float16) for name, value in state.items()}


def config_folder(folder: Path, kind: str, config: Config) -> Path:
    """A folder of which only config.json is left."""
    write_network(folder, kind, config, random_component(kind, config))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return folder


def assert_same(actual: Arrays, expected: Arrays) -> None:
    assert sorted(actual) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(actual[name]), np.asarray(value), err_msg=name)


def _replace(name: str, renames: Mapping[str, str]) -> str:
    for new, old in renames.items():
        if ".attentions." in name:
            name = name.replace(f".{new}.", f".{old}.")
    return name
