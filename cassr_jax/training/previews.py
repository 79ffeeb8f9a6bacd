"""Previews that show what a run can do so far, always with the same examples and noise."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.config import SamplingConfig, TrainConfig
from cassr_jax.data.pipeline import Records
from cassr_jax.data.resident import ResidentPool
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.imaging.pixels import to_float, to_uint8
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks, merge_all
from cassr_jax.sampling import Inputs, Setting, make_course, sample
from cassr_jax.seeds import seed_key
from cassr_jax.sharding.placement import gathered
from cassr_jax.training.setup import sample_batch
from cassr_jax.training.stages import ArrayT, denoiser_and_pictures, guides_read, stage_named, start_read
from cassr_jax.typing import Modules

Preview = Callable[[Params], np.ndarray]
_NUM_STEPS = 20


def schedule_of(config: TrainConfig) -> Schedule:
    """The schedule with which to sample the model that `config` trains."""
    if not config.loss.start_fraction:
        return config.known_schedule
    # Other spacings put the only step at the end of the timesteps, not where the examples began.
    return replace(config.known_schedule, timestep_spacing="trailing")


def sampling_of(config: TrainConfig) -> SamplingConfig:
    """How to sample the model that `config` trains: with the first timestep and the steps of its examples."""
    loss, last = config.loss, config.known_schedule.num_train_timesteps - 1
    if loss.start_fraction:
        strength = loss.start_timestep / last
        return SamplingConfig(
            num_steps=1, guidance_scale=1.0, start=loss.start, strength=strength, prompt=config.prompt
        )
    first = last if loss.max_timestep is None else loss.max_timestep
    start = "lq" if stage_named(config.stage).reads else "noise"
    steps = min(SamplingConfig.num_steps, first)
    return SamplingConfig(num_steps=steps, start=start, strength=first / last, prompt=config.prompt)


def latents_shape(config: TrainConfig, modules: Modules) -> tuple[int, int, int]:
    """The shape of the latents of one example."""
    vae = modules["vae"].config
    side = config.data.crop_size // vae.factor
    return side, side, vae.latent_channels


def made_pictures(
    config: TrainConfig,
    modules: Modules,
    prompt_ids: np.ndarray | None,
    batch: Mapping[str, ArrayT],
    noise: jax.Array,
) -> jax.Array:
    """The pictures (B, S, S, 3) that the stage makes of a batch, about [-1, 1], inside a traced function.

    They are the autoencoder's reconstructions, in stage `base` pictures from noise, in all others restored pictures.
    """
    vae = modules["vae"]
    if config.stage == "vae":
        return vae.decode(vae.encode(to_float(batch["hr"])))
    sampling = sampling_of(config)
    sampling = replace(sampling, num_steps=min(sampling.num_steps, _NUM_STEPS))
    denoiser, pictures = denoiser_and_pictures(config, modules, batch)
    inputs = Inputs(
        images=tuple(map(to_float, pictures)),
        start=None if sampling.start == "noise" else to_float(batch[start_read(config)]),
        noise=noise,
        encoder_hidden_states=modules["text_encoder"](prompt_ids),  # (2, L, C): without and with the prompt
        course=make_course(schedule_of(config), sampling),
        guides=tuple(to_float(batch[name]) for name in guides_read(config)),
    )
    return sample(vae, denoiser, inputs, Setting.of(sampling), modules.get("fusion"))


def make_preview(
    config: TrainConfig, networks: Networks, prompt_ids: np.ndarray | None, sets: Records | ResidentPool
) -> Preview:
    """A function from all parameters to a picture of N rows of examples, (N * S, K * S, 3) uint8.

    A row is LQ | reference | output | HR, as far as the data hold them. The output is the autoencoder's reconstruction,
    in stage `base` a picture from noise.
    """
    count = config.preview_count
    batch = {name: value for name, value in sample_batch(config, count, sets).items() if name != "record"}

    def run(params: Params) -> dict[str, jax.Array]:
        modules = merge_all(networks.graphdefs, params)
        noise = jax.random.normal(seed_key(config.seed), (count, *latents_shape(config, modules)))
        made = {"output": made_pictures(config, modules, prompt_ids, batch, noise)}
        if "hr" in batch:
            return made
        return made | {"hr": modules["vae"].decode(jnp.asarray(batch["latents"], jnp.float32))}

    compiled = jax.jit(run)

    def preview(params: Params) -> np.ndarray:
        made = {name: to_uint8(image) for name, image in gathered(compiled(params)).items()}
        shown = [(batch | made)[name] for name in ("lq", "reference", "output", "hr") if name in batch | made]
        return np.concatenate([image.reshape(-1, *image.shape[2:]) for image in shown], axis=1)

    return preview
