"""Loading a cascade from a name, a folder or a configuration file."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import get_args

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from cassr_jax import second_stage
from cassr_jax.cascade import CasSR
from cassr_jax.choices import Decoder, Split
from cassr_jax.config import CascadeConfig, DType, TrainConfig
from cassr_jax.config_files import check_components, defined, from_json, resolve, resolve_loras, shipped
from cassr_jax.control import NAMES as CONTROL
from cassr_jax.engine.seating import mesh_of_tiles
from cassr_jax.errors import InputError
from cassr_jax.files import Json, is_file, is_folder, read_json
from cassr_jax.first_stage import NAMES, first_stage
from cassr_jax.fitting import check_fitting
from cassr_jax.gathering import TOKENIZER, gather
from cassr_jax.imaging.memory import fitting
from cassr_jax.kinds import KINDS
from cassr_jax.networks import Networks, Place, open_all
from cassr_jax.prompts import prompt_ids
from cassr_jax.ranges import check
from cassr_jax.sampling import make_course
from cassr_jax.schedules import agreed
from cassr_jax.typing import Configs
from cassr_jax.weights.hub import fetch_cascade, files_of, is_hub_id, is_inside
from cassr_jax.weights.lora import open_loras
from cassr_jax.weights.rrdbnet import PUBLISHED

CASCADE_FILE = "cassr.json"
TRAINED_FILE = "trained.json"  # a training run writes it beside the cascade: its stage, its step, and which weights


def load(
    source: str | Path = "tiny",
    *,
    activation: str | None = None,
    change: Callable[[CascadeConfig], CascadeConfig] | None = None,
    loras: Mapping[str, float] | None = None,
    dtype: DType | None = None,
    devices: int | None = None,
    split: Split = "tiles",
) -> CasSR:
    """Load a cascade.

    Args:
        source: the name of an embedded cascade ("tiny"), a folder that holds a `cassr.json`, the working folder of a
            finished training run of a second stage, a Python file that defines `cascade`, a `CascadeConfig`, or the
            name of one in `configs/`, or a repository of the Hugging Face Hub (`owner/name` or `owner/name:folder`).
        activation: the first stage that makes the reference: scedit, controlnet, rrdbnet or identity; by default the
            cascade's own.
        change: changes the cascade's configuration before anything is read; ablations use it.
        loras: LoRAs and their scales, in place of the cascade's own: files, folders or hub ids (see docs/weights.md).
        dtype: precision of the networks and their weights: float32, bfloat16 or float16; by default `usual_dtype`.
        devices: how many devices share the work; by default all accelerators of this process, or one CPU.
        split: what they share: the tiles of all pictures, or (spatial) the rows of one whole picture at a time.

    Raises:
        InputError: the source is none of these, weights or LoRAs are missing or do not fit, weights do not know a
            prompt, or there are fewer devices.
    """
    config, base = read_cascade(source)
    if change is not None:
        config = change(config)
    if loras is not None:
        config = replace(config, loras=_checked(loras))
    if activation is not None:
        config = replace(config, activation=activation)
    check(config)
    if config.activation_sampling.start == "reference":
        raise InputError(
            f"{source}: activation_sampling.start is reference, expected lq or noise: it makes the reference"
        )
    stage, kept = first_stage(config.activation), config.activation_sampling.control_every
    if kept > 1 and stage.diffuses and not any(KINDS[kind].copies_encoder for kind in stage.networks):
        raise InputError(
            f"{source}: activation_sampling.control_every is {kept}, expected 1: the first stage {stage.name} has no "
            "ControlNet whose features could be kept"
        )
    if unknown := sorted(config.first_stages.keys() - set(NAMES)):
        raise InputError(f"{source}: first_stages names {unknown[0]!r}, expected some of {', '.join(NAMES)}")
    check_components(config.components, str(source))
    dtype = dtype or usual_dtype()
    if dtype not in get_args(DType):
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(get_args(DType))}")
    if config.decoder not in get_args(Decoder):
        raise InputError(f"{source}: decoder is {config.decoder!r}, expected one of {', '.join(get_args(Decoder))}")
    if split not in get_args(Split):
        raise InputError(f"split is {split!r}, expected one of {', '.join(get_args(Split))}")
    everywhere = NamedSharding(mesh_of_tiles(devices), PartitionSpec())
    optional = [kind for kind in (*second_stage.OPTIONAL, TOKENIZER) if kind in config.components]
    needed = (*second_stage.networks_of(config.control), config.decoder, *stage.networks)
    wanted = dict.fromkeys((*needed, *optional))
    for kind in wanted:
        if kind not in config.components:
            raise InputError(_lacking(source, kind, config))
    given = {kind: resolve(config.components[kind], base) for kind in wanted}
    sources, loras_here = gather(given, resolve_loras(config.loras, base), str(source))
    opened = open_all(sources, open_loras(loras_here))
    configs: Configs = {kind: weights.config for kind, weights in opened.items()}
    check_fitting(configs, given)
    sampled = [config.sampling, *([config.activation_sampling] if stage.diffuses else [])]
    for sampling in sampled:
        prompt_ids(configs["text_encoder"], sources.get(TOKENIZER), sampling.prompts)
    config = replace(config, schedule=agreed(config.schedule, sources["unet"], str(source)))
    for sampling in sampled:
        try:
            make_course(config.known_schedule, sampling)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
    networks = Networks()
    for kind, weights in opened.items():
        networks = networks.with_weights(kind, weights, dtype, dtype, _putting(everywhere))
    return CasSR(config, networks, sources.get(TOKENIZER), devices, split)


def _checked(loras: object) -> dict[str, float]:
    """LoRAs and their scales as they were given.

    Raises:
        InputError: they are something else.
    """
    if not isinstance(loras, Mapping) or not all(isinstance(name, str | Path) and str(name) for name in loras):
        raise InputError(f"loras are {loras!r}, expected a mapping of files, folders or hub ids to scales")
    return {str(name): scale for name, scale in loras.items()}


def _putting(sharding: NamedSharding) -> Place:
    def put(name: str, array: ArrayLike) -> jax.Array:
        advice = "each device holds all networks of a cascade, so use larger devices or a narrower dtype"
        with fitting(name, advice):
            return jax.device_put(array, sharding)

    return put


def _lacking(source: str | Path, kind: str, config: CascadeConfig) -> str:
    """A sentence about the network `kind`, which a cascade needs and does not name."""
    stage = first_stage(config.activation)
    if kind == second_stage.TAESD:
        return f"{source}: names no {kind} among its components, expected one, or decoder vae in place of {kind}"
    if kind not in stage.networks:
        return (
            f"{source}: names no {kind} among its components, expected one: the second stage needs it for control "
            f"{config.control}"
        )
    runs = [name for name in NAMES if config.components.keys() >= {*first_stage(name).networks}]
    return (
        f"{source}: names no {kind} among its components, expected one for activation {stage.name} "
        f"({stage.holder} has one); without it the activation can be {', '.join(runs)}"
    )


def usual_dtype() -> DType:
    """The precision in which this machine samples unless it is told: bfloat16 on accelerators, float32 on a CPU."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def fetched(source: str | Path) -> str | Path:
    """The folder of a cascade on the hub, which is fetched into the local cache; any other source as it is.

    Raises:
        InputError: it is not on the hub, or the hub cannot be reached.
    """
    path = Path(source)
    if path.suffix == ".py" or is_folder(path) or str(source) in embedded_names() or not is_hub_id(str(source)):
        return source
    return fetch_cascade(str(source), CASCADE_FILE, _parts)


def read_cascade(source: str | Path) -> tuple[CascadeConfig, Path]:
    """The configuration of a cascade, and the folder where its relative paths start."""
    if not isinstance(source, (str, Path)) or not str(source):
        raise InputError(f"source is {source!r}, expected the name of a cascade, a folder or a Python file")
    path = Path(fetched(source))
    if str(source) not in embedded_names():
        path = shipped(path)
    if path.suffix == ".py":
        instead = (
            "defines a training run and no cascade, expected a `cascade`, as in configs/sd15.py, or the folder of a "
            "finished run; train.py takes this file"
        )
        return defined(path, ("cascade", CascadeConfig), ("config", TrainConfig), instead), path.parent
    if not is_folder(path):
        embedded = Path(str(resources.files("cassr_jax") / "assets" / str(source)))
        if str(source) not in embedded_names():
            raise InputError(
                f"{source}: not found, expected an embedded cascade ({', '.join(embedded_names())}), a folder, a .py "
                "file or the name of one in configs/, or a hub id"
            )
        path = embedded
    if (exported := trained(path)) is not None:
        path, found = exported
        if found["stage"] not in CONTROL:
            raise InputError(
                f"{source}: a run of stage {found['stage']}, which trains part of a cascade, expected stage "
                f"{' or '.join(CONTROL)}"
            )
    elif is_folder(path / "checkpoints"):
        raise InputError(f"{path}: a training run without an export, expected one; train.py --export writes it")
    file = path / CASCADE_FILE
    if not is_file(file):
        raise InputError(f"{path}: holds no {CASCADE_FILE}, expected a folder with a cascade's configuration")
    return from_json(CascadeConfig, read_json(file), str(file)), path


def _parts(folder: Path) -> list[str]:
    """The files and folders that the cascade's description names, apart from those of a package or of another place."""
    config = from_json(CascadeConfig, read_json(folder / CASCADE_FILE), str(folder / CASCADE_FILE))
    named = [part for part in (*config.components.values(), *config.loras) if part not in PUBLISHED]
    return [file for part in named if is_inside(part) for file in files_of(Path(part))]


def trained(source: str | Path) -> tuple[Path, Json] | None:
    """The folder of a training run's weights and their description; None if `source` is not from a training run."""
    for folder in (Path(source), Path(source) / "export"):
        if is_file(folder / TRAINED_FILE):
            return folder, read_json(folder / TRAINED_FILE)
    return None


def withdraw(folder: Path, *names: str) -> None:
    """Remove these files, which describe a folder's networks, before the first network is replaced.

    Whoever is interrupted then leaves a folder that is refused, and no mixture of old and new networks.

    Raises:
        InputError: a file cannot be removed.
    """
    for file in (folder / name for name in names):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{file}: cannot be replaced ({error.strerror or error})") from error


def embedded_names() -> list[str]:
    folder = Path(str(resources.files("cassr_jax") / "assets"))
    return sorted(file.parent.name for file in folder.glob(f"*/{CASCADE_FILE}"))
