"""LoRA files (Hu et al. 2021, arXiv 2106.09685), which are added to a network's weights while these are read.

For some linear layers and convolutions a LoRA holds two thin factors, and the layer's weight becomes
W + scale * alpha / rank * up @ down. Programs name the same layer in different ways:

    diffusers   unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight, and .lora.down.weight before
    before      mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight
    PEFT        base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight
    kohya-ss    lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight
    original    lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_down.weight

kohya-ss and LyCORIS store alpha as a tensor, diffusers in the file's header, PEFT in adapter_config.json beside it.
Where there is none, alpha is the rank.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import Json, exists, is_file, parse_json, read_json
from cassr_jax.models.parameters import Shapes
from cassr_jax.ranges import Range
from cassr_jax.weights.convert import check_tensors, to_flax, torch_name, torch_shapes
from cassr_jax.weights.files import Tensors, find_weights, read_tensors
from cassr_jax.weights.hub import Part, fetch, is_hub_id
from cassr_jax.weights.layouts import is_float
from cassr_jax.weights.original import unet_names
from cassr_jax.weights.safetensors import read_metadata
from cassr_jax.weights.tensors import Shape, Tensor, Weights, type_name

UNET, TEXT_ENCODER = "unet", "text_encoder"  # the kinds of network that a LoRA may change

_SETTINGS = "adapter_config.json"
_NAMES = [["pytorch_lora_weights.safetensors"], ["adapter_model.safetensors", _SETTINGS]]

_PEFT = "base_model.model."
_STARTS = {"unet.": UNET, "lora_unet_": UNET, "text_encoder.": TEXT_ENCODER, "lora_te_": TEXT_ENCODER}
_START = re.compile("|".join([*map(re.escape, [*_STARTS, _PEFT]), ""]))
_KEY = re.compile(
    r"(?P<name>.+?)"
    r"(?:\.(?P<alpha>alpha)|(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)(?P<factor>A|B|down|up)(?:\.default)?\.weight)"
)
_FACTORS = {"A": "down", "B": "up"}

# What a key with such a part says of its file.
_OTHER_FILES = {
    r"(\.|^)hada_w": "a LoHa",
    r"(\.|^)lokr_w": "a LoKr",
    r"\.(dora_scale$|lora_magnitude_vector)": "a DoRA",
    r"\.lora_mid\.": "a LoRA with a third factor, lora_mid",
    r"\.oft_": "an OFT",
    r"^(lora_te[12]_|text_encoder_2\.)": "a LoRA for Stable Diffusion XL or another base with several text encoders",
    r"^(lora_)?transformer[._]": "a LoRA for a diffusion transformer",
}
# Names with a few wildcards. Others could take for ever: a file must not decide how long it is read.
_PATTERN = re.compile(r"\^?[\w\\.|$-]*(\.\*[\w\\.|$-]*){0,3}")
# The width of the text's features in the layers that read them.
_READS_TEXT = re.compile(r"(attn2[._]to_[kv]|self_attn[._](q_proj|to_q))$")
_OTHER_BASES = {1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
# PEFT's ways to start an adapter that change the base itself.
_OTHER_STARTS = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class Update:
    """What is added to one layer's weight: `factor` * up @ down.

    Attributes:
        down: (rank, in), or (rank, in, height, width) for a convolution.
        up: (out, rank), or (out, rank, 1, 1).
        factor: alpha / rank.
    """

    down: Tensor
    up: Tensor
    factor: float

    @property
    def shape(self) -> Shape:
        """(out, in) or (out, in, height, width)."""
        return (self.up.shape[0], *self.down.shape[1:])

    def read(self, scale: float) -> np.ndarray:
        """The update times `scale` in float32, in torch's layout."""
        up, down = (tensor.read().astype(np.float32) for tensor in (self.up, self.down))
        rank = down.shape[0]
        return (np.float32(scale * self.factor) * up.reshape(-1, rank) @ down.reshape(rank, -1)).reshape(self.shape)


@dataclass(frozen=True)
class LoRA:
    """A file's updates, by kind of network and the layer's name in the file, and the scale that multiplies them."""

    path: Path
    scale: float
    updates: Mapping[str, Mapping[str, Update]]


def open_loras(loras: Mapping[str, float]) -> tuple[LoRA, ...]:
    """The LoRAs of these sources and scales, sorted, so that the order in which they are named changes no bit.

    Raises:
        InputError: see `open_lora`.
    """
    return tuple(open_lora(source, scale) for source, scale in sorted(loras.items()))


def open_lora(source: str, scale: float = 1.0) -> LoRA:
    """The LoRA in a file, a folder, or a repository of the hub (`owner/name`, `owner/name:folder` or `...:file`).

    Args:
        scale: multiplies all of its updates; any finite number.

    Raises:
        InputError: there is no such file, it holds something else than a LoRA for a U-Net or a text encoder, a layer
            lacks one of its factors, or a number is not finite; the message lists all keys at fault.
    """
    Range().check(f"the scale of {source}", scale)
    path = _locate(source)
    tensors = read_tensors(path)
    for key in tensors:
        for part, name in _OTHER_FILES.items():
            if re.search(part, key):
                raise InputError(
                    f"{path}: is {name}, as its key {key!r} says, expected a LoRA for a U-Net and a text encoder such "
                    "as Stable Diffusion 1.5's, with two factors a layer"
                )
    if not tensors:
        raise InputError(f"{path}: holds no tensors, expected pairs of LoRA factors")
    if unknown := [key for key in tensors if not _KEY.fullmatch(key)]:
        raise InputError(
            f"{path}: has unknown keys, expected pairs of LoRA factors alone (up and down, or A and B): "
            f"{', '.join(unknown)}"
        )
    if wrong := [f"{key} ({type_name(tensor)})" for key, tensor in tensors.items() if not is_float(tensor.dtype)]:
        raise InputError(f"{path}: holds {', '.join(wrong)}, expected floating-point weights")
    layers = _layers(tensors)
    found = [parts for of_kind in layers.values() for parts in of_kind.values()]
    if alone := [key for parts in found if not {"down", "up"} <= parts.keys() for key in parts.values()]:
        raise InputError(f"{path}: has {', '.join(alone)} without a partner, expected both factors of every layer")
    if twice := sorted(tensors.keys() - {key for parts in found for key in parts.values()}):
        raise InputError(f"{path}: has a second tensor for what {', '.join(twice)} holds, expected one of each")
    settings = _settings(path, any(key.startswith(_PEFT) for key in tensors))
    updates = {
        kind: {name: _update(path, name, parts, tensors, settings[kind]) for name, parts in of_kind.items()}
        for kind, of_kind in layers.items()
    }
    return LoRA(path, scale, updates)


def lora_files(source: str) -> list[Path]:
    """The files on this disk that decide what a LoRA adds; none for a hub id."""
    if not exists(source):
        return []
    path = _locate(source)
    return [path, *filter(is_file, [path.with_name(_SETTINGS)])]


def with_loras(weights: Weights, kind: str, loras: Sequence[LoRA]) -> Weights:
    """The weights of a network of this kind with the updates of all `loras`, which are added as each is read.

    A changed weight is computed, and read, in float32, whatever the files' types. `dtypes` names float32 for one that
    its file holds in 8 bits, which would lose the change.

    Raises:
        InputError: the network lacks layers of a LoRA, or they have other shapes; the message lists them all.
    """
    changing = [lora for lora in loras if lora.updates.get(kind)]
    if not changing:
        return weights
    names = _parameters(kind, weights.shapes)
    added: dict[str, list[tuple[float, Update]]] = {}
    for lora in changing:
        updates = lora.updates[kind]
        known = {name: names[_layer(name)] for name in updates if _layer(name) in names}
        check_tensors(
            {name: update.shape for name, update in updates.items()},
            {name: torch_shapes(ours, weights.shapes[ours].shape) for name, ours in known.items()},
            source=str(lora.path),
            hint=_other_base(updates) or f"a {kind}",
        )
        count = Counter(known.values())
        if twice := [name for name, ours in known.items() if count[ours] > 1]:
            raise InputError(f"{lora.path}: names a layer in two ways, expected one: {', '.join(twice)}")
        for name, update in updates.items():
            added.setdefault(known[name], []).append((lora.scale, update))

    def fetch(name: str) -> np.ndarray:
        array = weights.fetch(name)
        if name not in added:
            return array
        result = array.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # said below, with the names
            for scale, update in added[name]:
                result += to_flax(name, update.read(scale), result.ndim)
        if not np.isfinite(result).all() and np.isfinite(array).all():
            scales = ", ".join(f"{lora.path}={lora.scale:g}" for lora in changing)
            raise InputError(f"{name} is not finite with {scales}, expected smaller scales, or undamaged LoRAs")
        return result

    dtypes = {
        name: np.dtype(np.float32) if name in added and dtype.itemsize == 1 else dtype
        for name, dtype in weights.dtypes.items()
    }
    return replace(weights, dtypes=dtypes, fetch=fetch)


def _locate(source: str) -> Path:
    """The file of a LoRA."""
    path = Path(source)
    if is_file(path):
        return path
    part = _part(source)
    return _in_folder(path, _NAMES) if part is None else _in_folder(fetch(part), part.groups)


def _in_folder(path: Path, names: Sequence[Sequence[str]]) -> Path:
    if found := find_weights(path, names):
        return found
    others = sorted(file.name for file in path.glob("*.safetensors"))
    advice = f"; if {others[0]} is meant, give that file" if others else ""
    raise InputError(f"{path}: holds no LoRA, expected {' or '.join(name for name, *_ in _NAMES)}{advice}")


def lora_part(source: str) -> Part | None:
    """What is to be fetched from the hub; None if the LoRA lies on this disk.

    Raises:
        InputError: it is neither on this disk nor a hub id.
    """
    part = _part(source)
    if part is None:
        _locate(source)
    return part


def lora_file(source: str, fetched: Path | None) -> Path:
    """The file of a LoRA on this disk, or of one of the hub whose part has been `fetched` into a folder.

    Raises:
        InputError: the folder holds none.
    """
    part = _part(source)
    if part is None or fetched is None:
        return _locate(source)
    return _in_folder(fetched, part.groups)


def _part(source: str) -> Part | None:
    if exists(source):
        return None
    if not is_hub_id(source):
        raise InputError(f"{source}: no such file or folder of a LoRA, and no hub id either (`owner/name`)")
    repository, _, inside = source.partition(":")
    if not inside.endswith(".safetensors"):
        return Part(source, "LoRA", ("lora",), _NAMES)
    folder, _, name = inside.rpartition("/")
    return Part(f"{repository}:{folder}" if folder else repository, "LoRA", (), [[name, _SETTINGS]])


def _layers(tensors: Tensors) -> dict[str, dict[str, dict[str, str]]]:
    """Kind of network -> name of a layer in the file -> part (up, down, alpha) -> its key."""
    layers: dict[str, dict[str, dict[str, str]]] = {}
    for key in tensors:
        found = _KEY.fullmatch(key)
        assert found is not None, "unknown keys have been refused"
        name, factor = found["name"], found["factor"]
        part = found["alpha"] or _FACTORS.get(factor, factor)
        layers.setdefault(_kind(name), {}).setdefault(name, {})[part] = key
    return layers


def _kind(name: str) -> str:
    """The kind of network in which a layer is: the one that its name begins with, or the one that has such a path."""
    of_text = _layer(name).startswith(("text_model.", "encoder.layers."))
    return next((kind for start, kind in _STARTS.items() if name.startswith(start)), TEXT_ENCODER if of_text else UNET)


def _layer(name: str) -> str:
    """A layer's name within its network."""
    return _START.sub("", name, count=1).replace(".processor.", ".")


def _settings(path: Path, named_by_peft: bool) -> dict[str, Json]:
    """What PEFT calls the adapter's config, for each kind of network; empty where there is none."""
    if named_by_peft:
        beside = path.with_name(_SETTINGS)
        if not is_file(beside):
            raise InputError(f"{path}: has the names of PEFT, expected {_SETTINGS} beside it, which holds its alpha")
        config = read_json(beside)
        settings, where = {UNET: config, TEXT_ENCODER: config}, str(beside)
    else:
        where = f"{path}: lora_adapter_metadata in its header"
        text = read_metadata(path).get("lora_adapter_metadata") if path.suffix == ".safetensors" else None
        flat = parse_json(text, where) if text else {}
        settings = {
            kind: {name.removeprefix(f"{kind}."): value for name, value in flat.items() if name.startswith(f"{kind}.")}
            for kind in (UNET, TEXT_ENCODER)
        }
    for config in settings.values():
        start = config.get("init_lora_weights")
        if config.get("peft_type") not in (None, "LORA"):
            raise InputError(f"{where}: peft_type is {config['peft_type']!r}, expected LORA")
        if config.get("use_dora"):
            raise InputError(f"{where}: use_dora is true, expected a plain LoRA")
        if isinstance(start, str) and start.startswith(_OTHER_STARTS):
            raise InputError(f"{where}: init_lora_weights is {start!r}, which changes the base too, expected another")
    return settings


def _update(path: Path, name: str, parts: Mapping[str, str], tensors: Tensors, settings: Json) -> Update:
    """The update of a layer whose tensors have these keys."""
    down, up = tensors[parts["down"]], tensors[parts["up"]]
    if len(down.shape) not in (2, 4) or up.shape[1:] != (down.shape[0], *[1] * (len(up.shape) - 2)) or 0 in down.shape:
        raise InputError(
            f"{path}: {parts['down']} is {down.shape} and {parts['up']} is {up.shape}, expected (rank, in) and (out, "
            "rank), or the same as convolutions, of which the second is 1x1"
        )
    rank = down.shape[0]
    alpha = _stored_alpha(path, parts["alpha"], tensors) if "alpha" in parts else _alpha(path, name, rank, settings)
    return Update(down, up, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _stored_alpha(path: Path, key: str, tensors: Tensors) -> float:
    found = tensors[key].read().reshape(-1).tolist()
    if len(found) != 1 or not math.isfinite(found[0]):
        raise InputError(f"{path}: {key} holds {', '.join(map(str, found[:3]))}, expected one finite number")
    return float(found[0])


def _alpha(path: Path, name: str, rank: int, settings: Json) -> float:
    """The alpha of a layer by PEFT's rules: that of the first pattern which matches the end of its path, or of all."""
    alpha = settings.get("lora_alpha", rank)
    try:
        patterns = (settings.get("alpha_pattern") or {}).items()
        if strange := [pattern for pattern, _ in patterns if not _PATTERN.fullmatch(pattern)]:
            raise InputError(
                f"{path}: alpha_pattern holds {strange[0][:80]!r}, expected names, of which .* may stand for a part"
            )
        alpha = next((value for pattern, value in patterns if re.match(rf"(.*\.)?({pattern})$", _layer(name))), alpha)
    except (AttributeError, TypeError, re.error) as error:
        raise InputError(f"{path}: alpha_pattern cannot be read ({error}), expected patterns of paths") from error
    if not Range().holds(alpha):
        raise InputError(f"{path}: the alpha of {name} is {alpha!r}, expected a finite number")
    return float(alpha)


def _parameters(kind: str, shapes: Shapes) -> dict[str, str]:
    """The names that programs give to the network's layers -> the parameters that a LoRA changes."""
    kernels = {torch_name(name): name for name in shapes if name.endswith(".kernel")}
    names = {weight.removesuffix(".weight"): name for weight, name in kernels.items()}
    if kind == TEXT_ENCODER:
        # Diffusers once named its attention as the U-Net's, and transformers 5 leaves out the outermost module.
        older = {re.sub(r"\b([qkv])_proj$", r"to_\1", layer): name for layer, name in names.items()}
        older = {re.sub(r"\bout_proj$", "to_out", layer): name for layer, name in older.items()}
        names |= older
        names |= {layer.removeprefix("text_model."): name for layer, name in names.items()}
        original = {}
    else:
        names |= {layer.removesuffix(".0"): name for layer, name in names.items() if layer.endswith(".to_out.0")}
        original = {theirs.removesuffix(".weight"): kernels[ours] for ours, theirs in unet_names(kernels).items()}
    return names | {layer.replace(".", "_"): name for layer, name in (names | original).items()}


def _other_base(updates: Mapping[str, Update]) -> str:
    """The base for which a LoRA was made, if it is known and not Stable Diffusion 1.5; or else nothing."""
    widths = {update.down.shape[1] for name, update in updates.items() if _READS_TEXT.search(name)}
    return next((f"it is a LoRA for {_OTHER_BASES[width]}" for width in widths & _OTHER_BASES.keys()), "")
