"""A diffusion stage on a batch of tiles, as pure functions: shared embeddings, one prediction, the whole stage.

A tile is a square that the networks see whole. `sample` runs a stage on independent tiles, such as the crops of a
training batch, inside a traced function. `cassr_jax.engine` calls the same functions for pictures of any size, whose
tiles overlap.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion.guidance import guide
from cassr_jax.diffusion.samplers import Sampler, Trajectory, advance, begin, make_sampler, start_latents
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.models.denoisers import Denoiser
from cassr_jax.models.fusion import Fusion, decode_guided
from cassr_jax.models.vae import AutoencoderKL
from cassr_jax.typing import Images, Latents, PromptPair, Scalar, Step

Pictures = Float[Array | np.ndarray, "batch height width 3"]


@dataclass(frozen=True)
class Setting:
    """The settings of a stage that affect compilation.

    Attributes:
        sampler: takes one step.
        guided: whether the denoiser runs on the negative prompt too.
    """

    sampler: Sampler
    guided: bool

    @classmethod
    def of(cls, sampling: SamplingConfig) -> "Setting":
        return cls(make_sampler(sampling.sampler), sampling.guidance_scale != 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inputs:
    """The arrays that `sample` takes; H and W are a tile's sides in pixels, h and w in latents.

    Attributes:
        images: the images that the denoiser reads, (B, H, W, 3) in [-1, 1] each.
        start: the picture (B, H, W, 3) in [-1, 1] whose latents the noise is mixed into; None for noise alone.
        noise: (B, h, w, C) unit normal.
        encoder_hidden_states: (2, L, C), the embeddings of the negative prompt and the prompt.
        trajectory: the timesteps and coefficients of the run.
        guidance_scale: () float32.
        fidelity: () float32, how much the decoder takes directly from `images`, 0 to 1; it only affects a stage with a
            fusion.
    """

    images: tuple[Pictures, ...]
    start: Pictures | None
    noise: Latents
    encoder_hidden_states: PromptPair
    trajectory: Trajectory
    guidance_scale: float | Scalar
    fidelity: float | Scalar = 1.0


class Embeddings(NamedTuple):
    """Embeddings that all steps and tiles share, computed once.

    Attributes:
        text: the keys and values for one call of the denoiser.
        temb: the time embeddings of all steps, (S, ...).
    """

    text: PyTree[Array]
    temb: PyTree[Array]


def make_trajectory(schedule: Schedule, sampling: SamplingConfig) -> Trajectory:
    """The timesteps and coefficients of a run, which starts at the share `sampling.strength` of the schedule."""
    last = schedule.num_train_timesteps - 1
    first = None if sampling.strength == 1 else min(max(round(sampling.strength * last), sampling.num_steps), last)
    return make_sampler(sampling.sampler).trajectory(schedule, sampling.num_steps, first)


def embed(
    denoiser: Denoiser, encoder_hidden_states: PromptPair, trajectory: Trajectory, batch: int, setting: Setting
) -> Embeddings:
    """The text and time embeddings for calls on `batch` tiles."""
    prompts = encoder_hidden_states if setting.guided else encoder_hidden_states[1:]
    text = denoiser.embed_text(jnp.repeat(prompts, batch, axis=0))
    return Embeddings(text, denoiser.embed_time(jnp.asarray(trajectory.timesteps)))


def predict(
    denoiser: Denoiser,
    embeddings: Embeddings,
    latents: Latents,
    hints: PyTree[Array],
    step: Step,
    guidance_scale: float | Scalar,
    setting: Setting,
) -> Latents:
    """Calls the denoiser once on a batch of tiles: (B, h, w, C) float32 in the schedule's prediction type."""
    temb = jax.tree.map(lambda table: jax.lax.dynamic_index_in_dim(table, step, keepdims=True), embeddings.temb)
    if not setting.guided:
        return denoiser(latents, temb, embeddings.text, hints).astype(jnp.float32)
    both = denoiser(jnp.concatenate([latents] * 2), temb, embeddings.text, hints)
    negative, positive = jnp.split(both, 2)
    return guide(negative, positive, guidance_scale)


def sample(
    vae: AutoencoderKL, denoiser: Denoiser, inputs: Inputs, setting: Setting, fusion: Fusion | None = None
) -> Images:
    """Runs a whole stage on B tiles: (B, H, W, 3) float32, about [-1, 1], not clipped."""
    latents = jnp.zeros_like(inputs.noise) if inputs.start is None else vae.encode(jnp.asarray(inputs.start))
    images = tuple(map(jnp.asarray, inputs.images))
    embeddings = embed(denoiser, inputs.encoder_hidden_states, inputs.trajectory, len(inputs.noise), setting)
    hints = denoiser.embed_images(*images) if images else None
    carry = advance(
        lambda x, step: predict(denoiser, embeddings, x, hints, step, inputs.guidance_scale, setting),
        setting.sampler,
        inputs.trajectory,
        begin(start_latents(inputs.trajectory, latents, inputs.noise)),
        0,
        len(inputs.trajectory.timesteps),
    )
    return decode_guided(vae, fusion, carry.latents, images, inputs.fidelity).astype(jnp.float32)
