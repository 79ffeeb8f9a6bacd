"""The parts of a run: its networks, its stream of batches, and the entries of a batch that a stage reads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.config import TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.data.pipeline import Batch, Batches, Records, batches, open_records
from cassr_jax.data.resident import ResidentPool, draw
from cassr_jax.data.workforce import usable_cores
from cassr_jax.errors import InputError
from cassr_jax.fitting import check_fitting
from cassr_jax.gathering import TOKENIZER, gather
from cassr_jax.kinds import kind_of
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks, Place
from cassr_jax.schedules import agreed
from cassr_jax.seeds import seed_key
from cassr_jax.training.image_loss import needs_lpips
from cassr_jax.training.masking import partition
from cassr_jax.training.placing import Placing
from cassr_jax.training.stages import activation_of, guides_read, pictures_read, stage_named, start_read
from cassr_jax.typing import HostExamples
from cassr_jax.weights.configs import AttachedConfig
from cassr_jax.weights.lora import open_loras
from cassr_jax.weights.perceptual import lpips_weights


def networks_of(config: TrainConfig) -> list[str]:
    """The kinds of network that the stage uses, in an order in which they can be made.

    Existing ones come first, and those that start as a copy of the U-Net's encoder last. Other components belong to the
    exported cascade.

    Raises:
        InputError: a network is neither in `components` nor in `new` or in both, an autoencoder is missing where
            pictures must be encoded or decoded, or the exported cascade would lack its first stage's network.
    """
    if both := [kind for kind in config.components if kind in config.new]:
        raise InputError(
            f"{both[0]} is in `components`, as {config.components[both[0]]}, and in `new`, expected it in one of them: "
            "a network is read or created"
        )
    stage = stage_named(config.stage)
    needed = (*stage.trains, *stage.needs)
    if missing := [kind for kind in dict.fromkeys(needed) if kind not in {*config.components, *config.new}]:
        raise InputError(f"stage {config.stage} needs {', '.join(missing)}, expected in `components` or in `new`")
    if "vae" in stage.uses and "vae" not in {*config.components, *config.new}:
        for name, value in (
            ("preview_every", config.preview_every),
            ("loss.start_fraction", config.loss.start_fraction),
            ("loss.image_weight", config.loss.image_weight),
        ):
            if value:
                raise InputError(f"{name} is {value}, which takes a vae, expected one among `components`, or 0")
    if stage.completes:
        first = activation_of(config)
        if missing := [kind for kind in first.networks if kind not in {*config.components, *config.new}]:
            raise InputError(
                f"activation {first.name} needs {', '.join(missing)}, expected among `components`: the exported "
                "cascade makes its references with it"
            )
    if stage.decodes:
        for name in ("image_weight", "start_fraction"):
            if not getattr(config.loss, name):
                raise InputError(
                    f"loss.{name} is 0, expected more: stage {config.stage} learns from decoded pictures alone"
                )
    read = [kind for kind in config.components if kind in (*needed, *stage.uses)]
    return [*read, *sorted(config.new, key=lambda kind: kind_of(kind).copies_encoder)]


def with_schedule(config: TrainConfig) -> TrainConfig:
    """The configuration with the schedule of the U-Net's weights, which its own must not contradict.

    Raises:
        InputError: the two contradict each other, or this program does not offer the weights' schedule.
    """
    stage = stage_named(config.stage)
    read = "unet" in (*stage.trains, *stage.needs) and "unet" not in config.new
    unet = config.components.get("unet") if read else None
    return replace(config, schedule=agreed(config.schedule, unet, f"the configuration of stage {config.stage}"))


def build(config: TrainConfig, placing: Placing | None = None) -> Networks:
    """All networks of the stage, existing or new; `placing` puts each parameter on the devices if it is given.

    Whatever is read from the hub is fetched before the first network is read.
    """
    networks, encoder = Networks(), None if placing is None else placing.encoder
    kinds = networks_of(config)
    read = {kind: source for kind, source in config.components.items() if kind in (*kinds, TOKENIZER)}
    sources, loras_here = gather(read, config.loras, f"the configuration of stage {config.stage}")
    loras = open_loras(loras_here)
    for kind in kinds:
        if kind in config.new:
            # Before it is drawn: a new ControlNet copies the U-Net's encoder.
            check_fitting(networks.configs | {kind: config.new[kind]}, config.components)
            key = jax.random.fold_in(seed_key(config.seed), list(config.new).index(kind))
            networks = networks.with_new(kind, config.new[kind], config.dtype, key, placing, encoder)
        else:
            networks = networks.with_read(kind, sources[kind], config.dtype, place=placing, loras=loras)
            check_fitting(networks.configs, config.components)
    if placing is not None:
        placing.encoder.clear()
    for lora in loras:
        if not lora.updates.keys() & read.keys():
            raise InputError(
                f"{lora.path}: changes {' and '.join(lora.updates)}, which stage {config.stage} does not read, "
                "expected no loras"
            )
    if config.loss.rgb_weight:
        controlnet = networks.configs.get("controlnet")
        own = controlnet.own if isinstance(controlnet, AttachedConfig) else None
        if not isinstance(own, ControlNetConfig) or not own.return_rgbs:
            raise InputError(
                f"loss.rgb_weight is {config.loss.rgb_weight}, expected 0: the stage has no controlnet with return_rgbs"
            )
    return networks


def parameters_of(config: TrainConfig, networks: Networks, place: Place | None = None) -> tuple[Params, Params]:
    """(trainable, frozen) parameters that the loss reads: the networks', and LPIPS's weights if it needs them."""
    trainable, frozen = partition(networks.params, config.stage)
    if needs_lpips(config):
        put = place or (lambda _, array: jnp.asarray(array))
        weights = lpips_weights("vgg16")
        frozen |= {f"lpips.{name}": put(f"lpips.{name}", weights[name]) for name in sorted(weights)}
    return trainable, frozen


def open_sets(config: TrainConfig, cores: int | None = None) -> Records | ResidentPool:
    """The run's sets, opened and indexed once; every stream of records draws from them.

    `cores` may work on it, by default all that this process may use.
    """
    data = config.data.here()
    return ResidentPool(data.path, data.crop_size) if data.resident else open_records(data, cores)


def open_data(config: TrainConfig, sets: Records | ResidentPool, cores: int | None = None) -> Batches | ResidentPool:
    """An endless iterator over this process's parts of the batches, whose state can be read and set."""
    if isinstance(sets, ResidentPool):
        return sets
    processes = jax.process_count()
    return batches(
        config.data,
        batch_size=config.batch_size // processes,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=processes,
        records=sets,
        cores=cores,
    )


def sample_batch(config: TrainConfig, size: int, sets: Records | ResidentPool) -> Batch:
    """`size` examples like the run's, the first of its stream, which itself is left alone."""
    return first_examples(sets, size, config.seed, config.data)


def first_examples(sets: Records | ResidentPool, size: int, seed: int, data: DataConfig) -> Batch:
    """The first `size` examples of the stream of a seed."""
    if isinstance(sets, ResidentPool):
        return jax.device_get(draw(sets.pool, seed_key(seed), size, data.crop_size))
    with ThreadPoolExecutor(len(usable_cores())) as threads:
        found = list(threads.map(sets(seed).__getitem__, range(size)))
    return {name: np.stack([example[name] for example in found]) for name in found[0] if name != "skipped"}


def validation_sets(config: TrainConfig, sets: Records | ResidentPool) -> Records | ResidentPool:
    """The sets to validate on: what is held out of the run's own, `sets`, or those of `validation.path`."""
    held = None if isinstance(sets, ResidentPool) else sets.held
    return held or open_sets(replace(config, data=validation_data(config)))


def validation_data(config: TrainConfig) -> DataConfig:
    """The data that a run is validated on: those of `validation.path` if it is given, or else the run's own."""
    path = config.validation.path
    return replace(config.data, path=path, mixture={}, held_out=0.0) if path else config.data


def read_by(config: TrainConfig, target: str) -> set[str]:
    """The names of the entries that the stage reads from a batch, whose target is `hr` or `latents`."""
    started = {start_read(config)} if config.loss.start_fraction and config.stage != "vae" else set()
    compared = {"hr"} if config.loss.image_weight or config.loss.rgb_weight else set()
    return {target, *pictures_read(config), *guides_read(config)} | started | compared


def for_stage(config: TrainConfig, networks: Networks, batch: HostExamples) -> Batch:
    """The entries that the stage reads from a batch: its images, and `latents` if they are prepared, otherwise `hr`.

    Raises:
        InputError: the data lack an entry that the stage reads, or there is no autoencoder to make the latents.
    """
    target = "latents" if config.stage != "vae" and "latents" in batch else "hr"
    needed = read_by(config, target) | ({"latents_std"} & batch.keys() if target == "latents" else set())
    if config.data.resident:
        needed = {"lr" if name == "lq" else name for name in needed}  # enlarged where it lies
    source = ", ".join(config.data.weights())
    if missing := [name for name in needed if name not in batch]:
        missing = ", ".join(sorted(missing))
        raise InputError(f"{source}: gives {', '.join(batch)}, stage {config.stage} also needs {missing}")
    if target == "hr" and "vae" not in networks.configs:
        raise InputError(f"{source}: gives no latents, so that stage {config.stage} needs a vae")
    return {name: batch[name] for name in needed}
