"""Weight files: choosing one in a folder, and reading the tensors of a file of any format."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.files import is_file, is_folder, read_json
from cassr_jax.weights.flax_msgpack import read_flax_msgpack
from cassr_jax.weights.safetensors import read_safetensors
from cassr_jax.weights.tensors import Tensor
from cassr_jax.weights.torch_pickle import read_torch

Tensors = Mapping[str, Tensor]

STATE = "state"  # the folder of a network that holds its parameters as an Orbax state
STATE_LIST = "_METADATA"  # Orbax's list of a state's arrays
SUFFIXES = (".safetensors", ".msgpack", ".bin", ".pth", ".pt", ".ckpt")


def read_tensors(path: Path | str) -> Tensors:
    """The tensors of one file, by their names in it; a tensor is read only on demand.

    The file may be safetensors, an index of shards (`*.index.json`), Flax's msgpack, or a file of `torch.save`, whose
    pickle is never run. A folder is taken for an Orbax state.

    Raises:
        InputError: the file, or a shard that its index names, is absent, cut short or of another format.
    """
    path = Path(path)
    if is_folder(path):
        from cassr_jax.weights.orbax_state import read_state  # Orbax takes seconds to import

        return read_state(path)
    if path.name.endswith(".json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".msgpack":
        return read_flax_msgpack(path)
    if path.suffix in SUFFIXES:
        return _weights_alone(read_torch(path))
    raise InputError(f"{path}: is not a weight file, expected a name that ends in one of {', '.join(SUFFIXES)}")


def weight_names(stems: Sequence[str], flax_name: str) -> list[list[str]]:
    """The names that a folder's weights may have, as glob patterns, best first.

    The first pattern of an entry names the file to read; the others belong to it. float32 comes before half precision,
    safetensors before all else.
    """
    stem, *old = stems
    return [
        [f"{stem}.safetensors"],
        [f"{stem}.safetensors.index.json", f"{stem}-*-of-*.safetensors"],
        [f"{stem}.fp16.safetensors"],
        [f"{stem}.safetensors.index.fp16.json", f"{stem}.fp16-*-of-*.safetensors"],
        [f"{stem}.bf16.safetensors"],
        [flax_name],
        *[[f"{name}.bin"] for name in (stem, *old)],
        *[[f"{name}.bin.index.json", f"{name}-*-of-*.bin"] for name in (stem, *old)],
        *[[f"{name}.fp16.bin"] for name in (stem, *old)],
    ]


def find_weights(folder: Path, names: Sequence[Sequence[str]]) -> Path | None:
    """The best weight file of a folder, by the order of `weight_names`; if there is none, its Orbax state."""
    file = next((folder / first for first, *_ in names if is_file(folder / first)), None)
    return folder / STATE if file is None and is_file(folder / STATE / STATE_LIST) else file


def _weights_alone(tensors: Tensors) -> Tensors:
    """The weights of a training checkpoint, which keeps them under `state_dict` beside the optimiser's state."""
    start = "state_dict."
    inner = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    return inner or tensors


def _read_shards(index: Path) -> Tensors:
    try:
        weight_map = read_json(index)["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: expected an index of shards, with a `weight_map` of names to files") from error
    if wrong := [name for name in shards if not isinstance(name, str) or Path(name).name != name]:
        raise InputError(f"{index}: names {wrong[0]!r}, expected files beside it")
    if absent := [name for name in shards if not is_file(index.parent / name)]:
        raise InputError(f"{index}: {len(absent)} of its {len(shards)} files are missing: {', '.join(absent)}")
    if nested := [name for name in shards if name.endswith(".json")]:
        raise InputError(f"{index}: names {nested[0]!r}, expected weight files and no other index")
    files = {name: read_tensors(index.parent / name) for name in shards}
    if absent := [name for name, file in weight_map.items() if name not in files[file]]:
        raise InputError(f"{index}: tensors are not in the files it names: {', '.join(absent)}")
    return {name: files[file][name] for name, file in weight_map.items()}
