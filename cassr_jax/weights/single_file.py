"""Single files in the original layout: which networks one holds, and how several networks become one.

A file that is written here holds the configs of its networks in its metadata, so it is read with its own widths, number
of heads and scaling factor. Other programs leave metadata alone, and take the file for Stable Diffusion 1.5's.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from cassr_jax.files import Json, parse_json
from cassr_jax.weights.original import controlnet_names, unet_names, vae_names
from cassr_jax.weights.safetensors import read_metadata, write_safetensors
from cassr_jax.weights.tensors import Shape

Named = tuple[Mapping[str, tuple[Shape, np.dtype]], Callable[[str], np.ndarray]]
"""The shapes and types of a network's tensors by their published names, and what reads one of them."""


def _own_names(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


# Kind of network -> the beginning of its names, and what gives their rest for diffusers' names.
ORIGINAL: Mapping[str, tuple[str, Callable[[Iterable[str]], dict[str, str]]]] = {
    "unet": ("model.diffusion_model.", unet_names),
    "vae": ("first_stage_model.", vae_names),
    "text_encoder": ("cond_stage_model.transformer.", _own_names),
    "controlnet": ("control_model.", controlnet_names),
}
# Names, in any layout, that a file has if it holds a network. The first pattern that is found decides the second group.
_WITHIN = {
    "unet": r"model\.diffusion_model\..*|model_ema\.diffusion_model.*",
    "vae": r"first_stage_model\..*",
    "text_encoder": r"(cond_stage_model|conditioner|text_encoders)\..*",
    "controlnet": r"control_model\..*",
}
_ALONE = {
    "controlnet": r"input_hint_block\..*|controlnet_\w+\..*",
    "scedit": r"(.*\.)?lsc_tuner_blocks\..*",
    "unet": r"(input|output|joint|double)_blocks\..*|(down|up)_blocks[._]\d.*|single_transformer_blocks\..*",
    "vae": r"decoder\.(conv_in|mid|up|mid_block)\..*",
    "taesd": r"(encoder|decoder)\.layers\..*",
    "text_encoder": r"(text_model\.)?(embeddings\.token_embedding|encoder\.layers)\..*",
    "rrdbnet": r"(.*\.)?(RRDB_trunk|body|model\.1\.sub)\.0\.(rdb1|RDB1)\..*",
}
_METADATA = "cassr_jax."  # the beginning of the metadata's names for configs
_SQUEEZED = re.compile(r".*\.attn_1\.(q|k|v|proj_out)\.weight")  # the autoencoder's attention: 1x1 convolutions there


def kinds_in_file(names: Iterable[str]) -> list[str]:
    """The kinds of network that a file seems to hold, by the names of its tensors; whether they fit is not known."""
    names = list(names)
    if found := [kind for kind, pattern in _WITHIN.items() if _any(pattern, names)]:
        return found
    return [kind for kind, pattern in _ALONE.items() if _any(pattern, names)][:1]


def belongs(name: str, kind: str) -> bool:
    """Whether a tensor of a file of several networks lies among those of `kind`."""
    return kind in _WITHIN and re.fullmatch(_WITHIN[kind], name) is not None


def _any(pattern: str, names: list[str]) -> bool:
    return any(map(re.compile(pattern).fullmatch, names))


def held_configs(path: Path) -> dict[str, Json]:
    """The config.json of each network in a file that `write_original` wrote; none for any other file."""
    if path.suffix != ".safetensors":
        return {}
    texts = {name: text for name, text in read_metadata(path).items() if name.startswith(_METADATA)}
    return {name.removeprefix(_METADATA): parse_json(text, f"{path}: {name}") for name, text in texts.items()}


def write_original(
    path: Path, networks: Mapping[str, Named], configs: Mapping[str, Json], marks: Iterable[str] = ()
) -> None:
    """Write networks into one file in the original layout, one tensor after the other.

    Args:
        networks: kind, one of `ORIGINAL` -> the network's tensors.
        configs: kind -> the content of the network's config.json.
        marks: names of empty tensors, which mark the noise on which a U-Net was trained.

    Raises:
        InputError: the file cannot be written, or a number is too large for its type.
    """
    shapes: dict[str, tuple[Shape, np.dtype]] = {}
    sources: dict[str, tuple[Callable[[str], np.ndarray], str]] = {}
    for kind, (tensors, read) in networks.items():
        prefix, rename = ORIGINAL[kind]
        for name, original in rename(tensors).items():
            shape, dtype = tensors[name]
            squeezed = len(shape) == 2 and _SQUEEZED.fullmatch(original)
            shapes[prefix + original] = ((*shape, 1, 1) if squeezed else shape, dtype)
            sources[prefix + original] = read, name

    def fetch(name: str) -> np.ndarray:
        if name not in sources:
            return np.zeros(0, np.float32)
        read, published = sources[name]
        return read(published).reshape(shapes[name][0])

    marked = {name: ((0,), np.dtype(np.float32)) for name in marks}
    metadata = {_METADATA + kind: json.dumps(config) for kind, config in configs.items()}
    write_safetensors(path, {**shapes, **marked}, fetch, metadata)
