"""The export of a run: the trained networks as folders, and the cascade that they belong to."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cassr_jax.config import CascadeConfig, TrainConfig
from cassr_jax.config_files import to_json
from cassr_jax.data.pipeline import Batch, Records
from cassr_jax.data.resident import ResidentPool
from cassr_jax.errors import InputError
from cassr_jax.files import exists, is_file, replaced, write_json
from cassr_jax.imaging.pixels import to_float
from cassr_jax.loading import CASCADE_FILE, TRAINED_FILE, withdraw
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.networks import Networks, write_network
from cassr_jax.prompts import usual_negative_prompt
from cassr_jax.schedules import write_schedule
from cassr_jax.sharding.placement import gathered
from cassr_jax.training.previews import sampling_of, schedule_of
from cassr_jax.training.setup import open_sets, sample_batch
from cassr_jax.training.stages import DISCRIMINATOR, activation_of, stage_named
from cassr_jax.training.state import TrainState
from cassr_jax.typing import HostExamples

PICTURES_FILE = "scaling_pictures.npz"  # the pictures on which a new autoencoder's scaling factor is measured


def export(
    config: TrainConfig,
    networks: Networks,
    state: TrainState,
    frozen: Params,
    folder: Path,
    pictures: Callable[[], Batch],
) -> Path:
    """Write the networks that the stage trained, each into a folder named as in `CascadeConfig.components`.

    If there is an average of the weights, it is what is written; `trained.json` says which. A second stage completes
    a cascade, whose folder `cassr_jax.load` can read: it names the sources of frozen networks, and holds new ones
    itself. While a folder's networks are replaced, it holds no description, and is refused.

    Args:
        pictures: gives the pictures of `kept_pictures`; called only for a new autoencoder.

    Raises:
        InputError: the folder or a file cannot be written.
    """
    averaged = bool(config.optimizer.ema_decay)
    trained = gathered(state.ema if averaged else state.params)
    frozen = gathered({name: value for name, value in frozen.items() if name.split(".", 1)[0] in config.new})
    if jax.process_index() > 0:
        return folder
    stage = stage_named(config.stage)
    written = {kind: networks.configs[kind] for kind in stage.trains}
    if stage.completes:
        written |= {kind: networks.configs[kind] for kind in config.new if kind != DISCRIMINATOR}
    if config.stage == "vae" and "vae" in config.new:
        factor = _scaling_factor(networks.graphdefs["vae"], select(trained, "vae"), pictures())
        written["vae"] = replace(written["vae"], scaling_factor=factor)
    withdraw(folder, TRAINED_FILE, *[CASCADE_FILE] * stage.completes)
    for kind, network in written.items():
        write_network(folder / kind, kind, network, select(frozen | trained, kind))
    if "unet" in written:
        write_schedule(folder, schedule_of(config))
    if stage.completes:
        write_json(folder / CASCADE_FILE, to_json(_cascade(config, networks, written)))
    write_json(
        folder / TRAINED_FILE,
        {"stage": config.stage, "step": int(state.step), "weights": "averaged (EMA)" if averaged else "last"},
    )
    return folder


def kept_pictures(config: TrainConfig, workdir: Path, sets: Records | ResidentPool | None = None) -> Batch:
    """The pictures on which a new autoencoder's scaling factor is measured; none for other runs.

    They are drawn once and kept with the run, so its export needs no training data.

    Raises:
        InputError: the data to draw them from cannot be read, or the file is damaged or cannot be written.
    """
    if "vae" not in stage_named(config.stage).trains or "vae" not in config.new:
        return {}
    file = workdir / PICTURES_FILE
    if not is_file(file):
        batch = sample_batch(config, 64, open_sets(config) if sets is None else sets)
        with replaced(file) as stream:
            np.savez_compressed(stream, hr=batch["hr"])
    try:
        with np.load(file) as found:
            return {"hr": found["hr"]}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{file}: is damaged ({error}), expected pictures; delete it, and they are drawn anew"
        ) from error


def _cascade(config: TrainConfig, networks: Networks, written: Iterable[str]) -> CascadeConfig:
    sources = {kind: _from_anywhere(source) for kind, source in config.components.items()}
    sampling = sampling_of(config)
    negative = usual_negative_prompt(networks.configs["text_encoder"], sampling.negative_prompt)
    sampling = replace(sampling, negative_prompt=negative)
    return CascadeConfig(
        components=sources | {kind: kind for kind in sorted(written)},
        loras={_from_anywhere(lora): scale for lora, scale in config.loras.items()},
        activation=activation_of(config).name,
        control=config.stage,
        schedule=schedule_of(config),
        activation_sampling=replace(sampling, start="lq"),
        sampling=sampling,
        switches=config.switches,
        tile=config.data.crop_size,
    )


def _from_anywhere(source: str) -> str:
    """A source that means the same whichever folder is the working directory."""
    return str(Path(source).absolute()) if exists(source) else source


def _scaling_factor(graphdef: nnx.GraphDef, params: Params, batch: HostExamples) -> float:
    """One over the standard deviation of the latents, with which a diffusion model sees them at unit size."""
    mean, logvar = jax.jit(lambda params, hr: merge(graphdef, params).moments(to_float(hr)))(params, batch["hr"])
    return float(1 / jnp.sqrt(jnp.var(mean) + jnp.mean(jnp.exp(logvar))))
