"""Training pairs made beforehand: crops, their degraded versions, the latents of the targets, and references.

Each device of this machine makes its share of every batch. A file of records is either complete or absent, so the same
command continues a run that was stopped. A file beside the records holds their settings; other settings are refused.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from cassr_jax.config import SamplingConfig, TrainConfig
from cassr_jax.config_files import to_json
from cassr_jax.data.config import SPEED
from cassr_jax.data.contents import fingerprint_sets
from cassr_jax.data.pipeline import Batch, batches, open_records
from cassr_jax.data.prepared import SUFFIX, PreparedSource, count_records, record_files, write_records
from cassr_jax.data.presets import PRESETS
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.files import check_outside, exists, is_file, read_json, write_json
from cassr_jax.first_stage.interface import FirstStage
from cassr_jax.fitting import check_fitting
from cassr_jax.imaging import resizing
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.grey import as_grey_as
from cassr_jax.imaging.pixels import to_float, to_uint8
from cassr_jax.locks import claimed
from cassr_jax.models.denoisers import MakeDenoiser
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks, merge_all
from cassr_jax.printing import complain, progress_bar
from cassr_jax.prompts import prompt_ids
from cassr_jax.sampling import Inputs, Setting, key_of_fresh, make_course, sample
from cassr_jax.second_stage import STABLE_DIFFUSION
from cassr_jax.seeds import seed_key
from cassr_jax.training.checkpoint import Digests, Origins
from cassr_jax.training.processes import flat
from cassr_jax.training.resume import completed
from cassr_jax.training.setup import with_schedule
from cassr_jax.typing import Modules
from cassr_jax.weights.lora import open_loras

RECORDS_PER_FILE = 512
MADE_WITH = "made_with.json"  # the settings that the records of a folder come from
_KEPT = ("record", "lr", "hr")

Make = Callable[[Modules, Mapping[str, jax.Array]], dict[str, jax.Array]]


@dataclass(frozen=True)
class Recipe:
    """The settings by which records are completed.

    Attributes:
        first_stage: makes the references; None for records without references.
        sampling: how a diffusion first stage samples.
        color_fix: how the references get the colours of the LQ image.
        latents: whether the mean and the deviation of the target's latents are stored.
    """

    first_stage: FirstStage | None
    sampling: SamplingConfig
    color_fix: str
    latents: bool

    @property
    def networks(self) -> tuple[str, ...]:
        """The kinds of network that it needs."""
        needed = ("vae",) if self.latents else ()
        if self.first_stage is not None:
            needed += (STABLE_DIFFUSION if self.first_stage.diffuses else ()) + self.first_stage.networks
        return tuple(dict.fromkeys(needed))

    @property
    def computes(self) -> bool:
        """Whether anything is added to the pictures."""
        return self.latents or self.first_stage is not None

    @property
    def needs_noise(self) -> bool:
        return self.first_stage is not None and self.first_stage.diffuses


@dataclass(frozen=True)
class _Engine:
    """Runs networks for a first stage on a batch of crops, inside a traced function."""

    modules: Modules
    schedule: Schedule | None
    sampling: SamplingConfig
    prompt_ids: np.ndarray | None
    noise: jax.Array | None
    keys: jax.Array | None

    def diffuse(self, make_denoiser: MakeDenoiser, images: tuple[jax.Array, ...]) -> jax.Array:
        assert self.noise is not None, "a first stage that diffuses is given noise"
        assert self.schedule is not None, "a first stage that diffuses is given a schedule"
        inputs = Inputs(
            images=images,
            start=None if self.sampling.start == "noise" else images[0],
            noise=self.noise,
            encoder_hidden_states=self.modules["text_encoder"](self.prompt_ids),
            course=make_course(self.schedule, self.sampling),
            keys=self.keys,
        )
        return sample(self.modules["vae"], make_denoiser(self.modules), inputs, Setting.of(self.sampling))

    def enlarge(self, kind: str, lr: jax.Array, lq: jax.Array) -> jax.Array:
        made = self.modules[kind]((lr + 1) / 2) * 2 - 1
        if made.shape != lq.shape:
            raise InputError(
                f"data.scale: the {kind} makes {made.shape[2]} px of {lr.shape[2]} px, expected {lq.shape[2]} px"
            )
        return jnp.clip(made, -1, 1)


def make_maker(networks: Networks, config: TrainConfig, recipe: Recipe) -> Make:
    """The function that completes a batch.

    Returns:
        A function of modules and a batch of uint8 `lr`, `hr` and `lq`, with unit `noise` for a diffusion first stage,
        and `keys` too for a noisy sampler.
        It gives `latents` and `latents_std`, scaled and float16, and `reference` in [-1, 1].
    """
    first, ids = recipe.first_stage, None
    if recipe.needs_noise:
        tokenizer = config.components.get("tokenizer")
        ids = prompt_ids(networks.configs["text_encoder"], tokenizer, recipe.sampling.prompts)

    def make(modules: Modules, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        made = {}
        if recipe.latents:
            mean, logvar = modules["vae"].moments(to_float(batch["hr"]))
            both = {"latents": mean, "latents_std": jnp.exp(0.5 * logvar)}
            scale = modules["vae"].config.scaling_factor
            made |= {name: (value * scale).astype(jnp.float16) for name, value in both.items()}
        if first is not None:
            lq = to_float(batch["lq"])
            engine = _Engine(modules, config.schedule, recipe.sampling, ids, batch.get("noise"), batch.get("keys"))
            made["reference"] = COLOR_FIXES[recipe.color_fix](first.reference(engine, to_float(batch["lr"]), lq), lq)
        return made

    return make


def mesh_for(batch_size: int) -> Mesh:
    """A mesh of this machine's devices along the axis `data`: as many as divide the batch."""
    devices = jax.local_devices()
    used = max(count for count in range(1, len(devices) + 1) if batch_size % count == 0)
    if used < len(devices):
        complain(f"batch_size {batch_size} uses {used} of {len(devices)} devices")
    return Mesh(np.array(devices[:used]), ("data",))


def over(
    mesh: Mesh, networks: Networks, make: Make
) -> Callable[[Params, Mapping[str, ArrayLike]], dict[str, jax.Array]]:
    """`make` as a jitted function of parameters and a batch, of which every device completes its share."""
    share = PartitionSpec("data")
    return jax.jit(
        jax.shard_map(
            lambda params, batch: make(merge_all(networks.graphdefs, params), batch),
            mesh=mesh,
            in_specs=(PartitionSpec(), share),
            out_specs=share,
            check_vma=False,  # the state of the sampler's loop starts as a constant and ends divided
        )
    )


def prepare(config: TrainConfig, recipe: Recipe, records: int, output: Path, part: tuple[int, int] = (1, 1)) -> None:
    """Write `records` records below `output`; when prepared records are completed, no more than there are.

    Args:
        part: (I, N): write part I of N of the files, as one of N machines that write into the same folder.

    Raises:
        InputError: the configuration has no degradation or lacks a network, its prepared records hold no pairs,
            `output` lies within the data or around them, or holds records made with other settings, or another run
            writes there.
    """
    config = replace(config, data=config.data.here())
    config.data.check_apart(output)
    for path in config.data.weights():
        check_outside(Path(path), output, "--output", "a folder of records may hold no other data")
    prepared = _open_prepared(config)
    if prepared is not None:
        records = min(records, len(prepared))
    elif config.data.preset is None:
        raise InputError(f"data.preset is None, expected one of {', '.join(PRESETS)}: pairs are degraded pictures")
    index, parts = part
    claim = output if parts == 1 else output / f".part-{index}-of-{parts}"
    with claimed(claim, "references"):
        _prepare(config, recipe, records, output, prepared, slice(index - 1, None, parts))
    if parts > 1:
        claim.rmdir()


def _prepare(
    config: TrainConfig, recipe: Recipe, records: int, output: Path, prepared: PreparedSource | None, files: slice
) -> None:
    if missing := [kind for kind in recipe.networks if kind not in config.components]:
        raise InputError(f"the components lack {', '.join(missing)}, expected {', '.join(recipe.networks)}")
    mesh = mesh_for(config.batch_size) if recipe.computes else None
    networks, sources = _read(config, recipe, mesh)
    check_fitting(networks.configs, config.components)
    if recipe.needs_noise:
        config = with_schedule(config)
        make_course(config.known_schedule, recipe.sampling)  # checked before pictures are searched
    complete = _make_complete(config, networks, recipe, mesh)
    # Worker processes take seconds to start, and every file has a stream of its own.
    data = replace(config.data, num_workers=config.data.num_workers or 0)
    streams = None if prepared is not None else open_records(data)
    _check_made_with(output / MADE_WITH, _settings(config, recipe, sources))
    size = config.batch_size
    per_file = math.ceil(RECORDS_PER_FILE / size)
    for index in progress_bar(range(math.ceil(records / size / per_file))[files], unit="file"):
        path, first = output / f"{index:05d}{SUFFIX}", index * per_file
        count = min(per_file * size, records - first * size)
        # A file with fewer records than now requested was the last one of a smaller set.
        if exists(path) and count_records(path) >= count:
            continue
        # Every file has a stream of its own, so making it needs none of the files before.
        numbers = range(first, first + math.ceil(count / size))
        if prepared is not None:
            stream = (_batched(prepared, number, size) for number in numbers)
        else:
            seed = (config.seed * 1_000_003 + first) % 2**63  # the range of a seed
            stream = batches(data, batch_size=size, seed=seed, records=streams)
        with closing(stream):
            made = (complete(batch, number) for number, batch in zip(numbers, stream, strict=False))
            write_records(path, islice(_unbatched(made), count))


def _read(config: TrainConfig, recipe: Recipe, mesh: Mesh | None) -> tuple[Networks, Origins]:
    """The recipe's networks on all devices of the mesh, in the type of the computation, and where they come from."""
    networks, digests, loras = Networks(), Digests(), open_loras(config.loras)

    def place(name: str, value: ArrayLike) -> jax.Array:
        assert mesh is not None, "a recipe that computes nothing has no networks"
        array = np.asarray(value)
        digests.add(name, array)  # as it is in its file
        return jax.device_put(array.astype(jnp.dtype(config.dtype)), NamedSharding(mesh, PartitionSpec()))

    for kind in recipe.networks:
        networks = networks.with_read(kind, config.components[kind], config.dtype, place=place, loras=loras)
    return networks, digests.origins(config)


def _make_complete(
    config: TrainConfig, networks: Networks, recipe: Recipe, mesh: Mesh | None
) -> Callable[[Batch, int], dict[str, np.ndarray]]:
    """A function of a batch and its number that gives the contents of its records."""
    if mesh is None:
        return lambda batch, number: {name: batch[name] for name in _KEPT}
    make_share = over(mesh, networks, make_maker(networks, config, recipe))
    share, key_of_noise = NamedSharding(mesh, PartitionSpec("data")), seed_key(config.seed)

    def complete(batch: Batch, number: int) -> dict[str, np.ndarray]:
        given: dict[str, ArrayLike] = {name: batch[name] for name in ("lr", "hr")}
        size, side = batch["hr"].shape[:2]
        if recipe.first_stage is not None:
            given["lq"] = np.stack([resizing.bicubic(lr, (side, side)) for lr in batch["lr"]])
        if recipe.needs_noise:
            vae = networks.configs["vae"]
            shape = (size, side // vae.factor, side // vae.factor, vae.latent_channels)
            key = jax.random.fold_in(key_of_noise, number)
            given["noise"] = jax.random.normal(key, shape, jnp.float32)
            if Setting.of(recipe.sampling).sampler.noisy:
                given["keys"] = jax.random.split(key_of_fresh(key), size)
        found = jax.device_get(make_share(networks.params, jax.device_put(given, share)))
        if "reference" in found:  # as in the cascade, which takes the networks' tint out of a grey picture
            references = map(as_grey_as, np.asarray(given["lq"]), to_uint8(found["reference"]))
            found["reference"] = np.stack(list(references))
        return {name: batch[name] for name in _KEPT} | found

    return complete


def _open_prepared(config: TrainConfig) -> PreparedSource | None:
    """The prepared records to complete; None if the data are pictures."""
    paths = [path for path in config.data.weights() if record_files(Path(path))]
    if not paths:
        return None
    if config.data.mixture:
        raise InputError(f"data.mixture: {paths[0]} holds prepared records, which are completed one set at a time")
    source = PreparedSource(config.data.path)
    if missing := [name for name in _KEPT if name not in source[0]]:
        raise InputError(
            f"{config.data.path}: the records hold {', '.join(source[0])} and no {', '.join(missing)}, "
            f"expected {', '.join(_KEPT)}"
        )
    return source


def _batched(source: PreparedSource, number: int, size: int) -> Batch:
    """Batch `number` of the records; the last batch is filled up with its last record."""
    chosen = [source[min(index, len(source) - 1)] for index in range(number * size, (number + 1) * size)]
    if len(shapes := {record["hr"].shape for record in chosen}) > 1:
        raise InputError(f"{source.files[0].parent}: holds hr of {', '.join(map(str, shapes))}, expected one size")
    return {name: np.stack([record[name] for record in chosen]) for name in _KEPT}


def _unbatched(batches_made: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches_made:
        for i in range(len(batch["record"])):
            yield {name: value[i] for name, value in batch.items()}


def _settings(config: TrainConfig, recipe: Recipe, sources: Origins) -> dict[str, object]:
    """The settings that decide the records; pictures and weights count by content, since a path's may change."""
    data = {name: value for name, value in to_json(config.data).items() if name not in (*SPEED, "resident")}
    data["contents"] = fingerprint_sets(config.data.weights())
    names = ("schedule", "batch_size", "seed", "dtype")
    return {
        "data": data,
        **{name: to_json(config)[name] for name in names},
        "networks": sources,
        "tokenizer": config.components.get("tokenizer") if recipe.needs_noise else None,
        "activation": None if recipe.first_stage is None else recipe.first_stage.name,
        "sampling": to_json(recipe.sampling),
        "color_fix": recipe.color_fix,
        "latents": recipe.latents,
    }


def _check_made_with(file: Path, settings: Mapping[str, object]) -> None:
    """Write the settings of the records, or refuse to continue records that were made with others."""
    if not is_file(file):
        write_json(file, settings)
        return
    before, now = (flat(found) for found in (read_json(file), settings))
    before = completed(before, now)
    for name in {**before, **now}:
        if before.get(name) != now.get(name) and not name.endswith(".source"):
            raise InputError(
                f"{file}: made with {name} {before.get(name)!r}, this run has {now.get(name)!r}; expected the same, or "
                "another --output"
            )
