"""One diffusion stage of the cascade as pure functions: start, condition, denoise, decode.

A picture is a canvas of latents covered by tiles of one size. In every step all tiles are denoised, a few at a time,
and their predictions merged with Gaussian weights (MultiDiffusion, arXiv 2302.08113), so that the sampler itself sees
one picture. Encoding, hints and decoding go by the same tiles: nothing larger than a few of them is ever inside a
network, and memory grows with the picture's own arrays only.

`run` is the whole stage. Its parts are apart so that each can be compiled on its own: both stages share the compiled
encoder and decoder, and a caller who shows progress runs `denoise`, which holds the sampling loop, in a few pieces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion.guidance import guide
from cassr_jax.diffusion.samplers import Carry, Plan, Sampler, advance, begin, make_sampler, start_latents
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.imaging import tiling
from cassr_jax.models.denoisers import Denoiser
from cassr_jax.models.vae import AutoencoderKL


@dataclass(frozen=True)
class Canvas:
    """What is static about a picture's size.

    Attributes:
        tiles: over the latents.
        factor: pixels per latent along a side.
        at_once: tiles in one call of a network.
    """

    tiles: tiling.Tiles
    factor: int
    at_once: int

    @property
    def pixels(self) -> tiling.Tiles:
        return self.tiles.scaled(self.factor)


@dataclass(frozen=True)
class Method:
    """What is static about the sampling: how a step is taken, and whether negative prompts are denoised too."""

    sampler: Sampler
    guided: bool


class Condition(NamedTuple):
    """What stays the same over the steps, computed once."""

    text: Any  # keys and values for one call of the network
    hints: Any  # (B * N, ...) for all tiles
    temb: Any  # (S, ...) for all steps


def make_plan(schedule: Schedule, sampling: SamplingConfig) -> Plan:
    """Timesteps and coefficients of a run; all its steps lie below `sampling.strength` of the schedule."""
    last = schedule.num_train_timesteps - 1
    first = None if sampling.strength == 1 else max(round(sampling.strength * last), sampling.num_steps)
    return make_sampler(sampling.sampler).plan(schedule, sampling.num_steps, first)


def make_method(sampling: SamplingConfig) -> Method:
    return Method(make_sampler(sampling.sampler), sampling.guidance_scale != 1)


def start(vae: AutoencoderKL, image: jax.Array | None, noise: jax.Array, plan: Plan, canvas: Canvas) -> Carry:
    """The sampler's state before the first step.

    Args:
        image: (B, H, W, 3) in [-1, 1], whose latents the noise is mixed into; None for noise alone.
        noise: (B, h, w, C) unit normal.
    """
    latents = jnp.zeros_like(noise)
    if image is not None:
        latents = tiling.merge(map_tiles(vae.encode, tiling.gather(image, canvas.pixels), canvas.at_once), canvas.tiles)
    return begin(start_latents(plan, latents, noise))


def condition(
    denoiser: Denoiser,
    encoder_hidden_states: jax.Array,
    images: tuple[jax.Array, ...],
    plan: Plan,
    canvas: Canvas,
    method: Method,
) -> Condition:
    """Text, hints and time embeddings.

    Args:
        encoder_hidden_states: (2, L, C), the negative prompt's and the prompt's.
        images: what the denoiser reads, (B, H, W, 3) in [-1, 1] each, H and W those of the canvas.
    """
    cuts = tuple(tiling.gather(image, canvas.pixels) for image in images)
    hints = map_tiles(lambda cut: denoiser.embed_images(*cut), cuts, canvas.at_once) if cuts else None
    prompts = encoder_hidden_states if method.guided else encoder_hidden_states[1:]
    at_once = min(canvas.at_once, len(cuts[0]) if cuts else canvas.tiles.count)
    text = denoiser.embed_text(jnp.repeat(prompts, at_once, axis=0))
    return Condition(text, hints, denoiser.embed_time(jnp.asarray(plan.timesteps)))


def denoise(
    denoiser: Denoiser,
    conditions: Condition,
    carry: Carry,
    plan: Plan,
    guidance_scale: jax.Array,
    first: jax.Array | int,
    last: jax.Array | int,
    canvas: Canvas,
    method: Method,
) -> Carry:
    """The sampling loop: steps first <= i < last."""

    def predict(x: jax.Array, step: jax.Array) -> jax.Array:
        temb = jax.tree.map(lambda table: jax.lax.dynamic_index_in_dim(table, step, keepdims=True), conditions.temb)

        def predict_tiles(chunk: tuple[jax.Array, Any]) -> jax.Array:
            cut, hints = chunk
            if not method.guided:
                return denoiser(cut, temb, conditions.text, hints).astype(jnp.float32)
            both = denoiser(jnp.concatenate([cut] * 2), temb, conditions.text, hints)
            negative, positive = jnp.split(both, 2)
            return guide(negative, positive, guidance_scale)

        cuts = (tiling.gather(x, canvas.tiles), conditions.hints)
        return tiling.merge(map_tiles(predict_tiles, cuts, canvas.at_once), canvas.tiles)

    return advance(predict, method.sampler, plan, carry, first, last)


def decode(vae: AutoencoderKL, carry: Carry, canvas: Canvas) -> jax.Array:
    """(B, H, W, 3) float32, about [-1, 1], not clipped."""
    cuts = tiling.gather(carry.latents, canvas.tiles)
    images = map_tiles(lambda cut: vae.decode(cut).astype(jnp.float32), cuts, canvas.at_once)
    return tiling.merge(images, canvas.pixels)


def run(
    vae: AutoencoderKL,
    denoiser: Denoiser,
    encoder_hidden_states: jax.Array,
    images: tuple[jax.Array, ...],
    start_image: jax.Array | None,
    noise: jax.Array,
    plan: Plan,
    guidance_scale: jax.Array,
    canvas: Canvas,
    method: Method,
) -> jax.Array:
    """The whole stage on B pictures of one size: (B, H, W, 3) float32, about [-1, 1]. Arguments as above."""
    carry = start(vae, start_image, noise, plan, canvas)
    conditions = condition(denoiser, encoder_hidden_states, images, plan, canvas, method)
    steps = len(plan.timesteps)
    carry = denoise(denoiser, conditions, carry, plan, guidance_scale, 0, steps, canvas, method)
    return decode(vae, carry, canvas)


def map_tiles(function: Callable[[Any], Any], tiles: Any, at_once: int) -> Any:
    """`function` over the first axis of a tree, `at_once` entries a call; the last call is filled up with the last
    entry, so that all have one shape."""
    count = len(jax.tree.leaves(tiles)[0])
    at_once = min(at_once, count)
    calls = -(-count // at_once)
    if calls == 1:
        return function(tiles)
    index = jnp.minimum(jnp.arange(calls * at_once), count - 1).reshape(calls, at_once)
    mapped = jax.lax.map(lambda i: function(jax.tree.map(lambda x: x[i], tiles)), index)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], mapped)
