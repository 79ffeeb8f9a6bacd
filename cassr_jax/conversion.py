"""Writing what an inventory lists: as folders of diffusers or of Orbax, or as one file in the original layout."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cassr_jax.choices import DType, Layout
from cassr_jax.diffusion.schedule import TRAINED, Schedule
from cassr_jax.errors import InputError
from cassr_jax.files import (
    check_folder,
    check_outside,
    exists,
    is_file,
    is_folder,
    replaced,
    replaced_folder,
    write_json,
)
from cassr_jax.inventory import Inventory
from cassr_jax.kinds import KINDS, kind_of
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.weights.configs import AttachedConfig
from cassr_jax.weights.hub import PIPELINE, SCHEDULER
from cassr_jax.weights.published import Published, stored_type
from cassr_jax.weights.single_file import ORIGINAL, write_original
from cassr_jax.weights.tensors import Weights

_ROOM = 64 * 2**20  # bytes for what is written beside the weights


def convert(found: Inventory, source: str, output: Path, layout: Layout, dtype: DType | None, overwrite: bool) -> None:
    """Write the networks of an inventory, one parameter after the other.

    The layout `diffusers` makes `output` a folder with one for each network, and the scheduler and the tokenizer of the
    source; if all parts are there, torch diffusers opens it as a pipeline. The layout `orbax` is the same with an Orbax
    state for each network's file. The layout `original` makes `output` one safetensors file. Each appears only when it
    is complete.

    Args:
        source: where the inventory is from.
        dtype: the type of the floats; by default each tensor keeps its own, and every bit.
        overwrite: replace what is at `output`.

    Raises:
        InputError: the output exists, cannot be written or has no room, the layout cannot hold a network, or a network
            of the source cannot be used.
    """
    for kind, reason in found.refused.items():
        raise InputError(f"{reason}; --kind leaves the {kind} out")
    files = {kind: _published(kind, weights, layout) for kind, weights in found.networks.items()}
    _check_output(output, layout, overwrite)
    _check_apart(output, [Path(source), *found.read()])
    size = sum(nbytes(weights, dtype) for weights in found.networks.values())
    _check_room(output, size)
    tokenizer = {file.name: _read(file) for file in found.tokenizer}
    if layout == "original":
        marks = _marks(found)
        networks = {kind: files[kind].published_tensors(weights, dtype) for kind, weights in found.networks.items()}
        configs = {kind: files[kind].config_json(weights.config) for kind, weights in found.networks.items()}
        write_original(output, networks, configs, marks)
        return
    with replaced_folder(output) as folder:
        for kind, weights in found.networks.items():
            write = files[kind].copy_state if layout == "orbax" else files[kind].copy
            write(folder / kind, weights, dtype)
        _write_parts(found, folder, tokenizer)


def nbytes(weights: Weights, dtype: DType | None = None) -> int:
    """The bytes of a network's parameters, as they are stored or in another type."""
    return sum(
        math.prod(shape.shape) * stored_type(weights.dtypes[name], dtype).itemsize
        for name, shape in weights.shapes.items()
    )


def _published(kind: str, weights: Weights, layout: Layout) -> Published:
    files = kind_of(kind).files
    if not isinstance(files, Published):
        raise InputError(f"{weights.path}: a {kind} is read and not written, expected --kind and other networks")
    if layout == "original" and (kind not in ORIGINAL or isinstance(weights.config, LearnedContextConfig)):
        raise InputError(
            f"{weights.path}: a {kind} like this has no original layout, expected --kind and some of "
            f"{', '.join(ORIGINAL)}, or --layout diffusers"
        )
    own = weights.config.own if isinstance(weights.config, AttachedConfig) else None
    if layout == "original" and isinstance(own, ControlNetConfig) and own.additions:
        raise InputError(
            f"{weights.path}: a ControlNet with PASD's additions ({', '.join(own.additions)}) has no original layout, "
            "expected --layout diffusers"
        )
    return files


_WRITTEN = {*KINDS, PIPELINE, "scheduler", "tokenizer"}


def _check_output(output: Path, layout: Layout, overwrite: bool) -> None:
    if layout == "original" and output.suffix != ".safetensors":
        raise InputError(f"{output}: expected a name that ends in .safetensors for the original layout")
    if layout != "original" and output.suffix == ".safetensors":
        raise InputError(f"{output}: expected a folder's name, or --layout original for one file")
    check_folder(output.parent)
    if not exists(output):
        return
    if not overwrite:
        raise InputError(f"{output}: exists, expected a free name, or --overwrite")
    if is_file(output) != (layout == "original"):
        raise InputError(
            f"{output}: is a {'file' if is_file(output) else 'folder'}, and would be replaced by the other"
        )
    if is_folder(output) and (others := sorted({path.name for path in output.iterdir()} - _WRITTEN)):
        raise InputError(
            f"{output}: holds {', '.join(others[:3])}, expected a folder that this command wrote: --overwrite replaces "
            "it whole"
        )


def _check_apart(output: Path, read: Sequence[Path]) -> None:
    """Checks that what is replaced is nothing of what is read, nor of the source beside it."""
    if not exists(output):
        return
    why = "it is read while the other is written"
    for path in filter(exists, read):
        check_outside(path, output, "what is to be replaced", why)
        if is_folder(path):
            check_outside(output, path, "the source", "what is replaced may be a part of it")


def _check_room(output: Path, size: int) -> None:
    place = next(path for path in output.absolute().parents if exists(path))
    if (free := shutil.disk_usage(place).free) < size + _ROOM:
        raise InputError(
            f"{output}: takes {size / 1e9:.2f} GB, and {place} has {free / 1e9:.2f} GB left, expected room"
        )


def _marks(found: Inventory) -> Sequence[str]:
    """The marks of the noise on which the U-Net was trained, which is all that a single file can say of it."""
    if found.scheduler is None or "unet" not in found.networks:
        return ()
    fields, where = found.scheduler
    noise = {name: value for name, value in fields.items() if name in ("_class_name", *TRAINED)}
    schedule = Schedule.from_diffusers(noise | {"clip_sample": False}, where)
    marked = {
        (): Schedule(),
        ("v_pred",): Schedule(prediction_type="v_prediction"),
        ("v_pred", "ztsnr"): Schedule(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    }
    for marks, known in marked.items():
        if all(getattr(schedule, name) == getattr(known, name) for name in TRAINED):
            return marks
    other = next(name for name in TRAINED if getattr(schedule, name) != getattr(Schedule(), name))
    raise InputError(
        f"{where}: {other} is {getattr(schedule, other)!r}, which no single file can say, expected --layout diffusers"
    )


_CLASSES = {  # as diffusers' model_index.json names them
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error


def _write_parts(found: Inventory, folder: Path, tokenizer: Mapping[str, bytes]) -> None:
    """The scheduler, the tokenizer and the index of a pipeline."""
    fields = Schedule().to_diffusers() if found.scheduler is None else dict(found.scheduler[0])
    if "unet" in found.networks:
        write_json(folder / SCHEDULER, fields)
    for name, data in tokenizer.items():
        with replaced(folder / "tokenizer" / name) as copy:
            copy.write(data)
    if tokenizer and found.networks.keys() >= _CLASSES.keys() - {"tokenizer"}:
        scheduler = ("diffusers", str(fields.get("_class_name", "DDIMScheduler")))
        parts: Mapping[str, tuple[str | None, str | None]] = {
            **_CLASSES,
            "scheduler": scheduler,
            "safety_checker": (None, None),
            "feature_extractor": (None, None),
        }
        write_json(
            folder / PIPELINE, {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False} | parts
        )
