"""One diffusion stage of the cascade as a pure function: images in, image out, the whole sampling loop inside.

A picture is a canvas of latents covered by tiles of one size. In every step all tiles are denoised, a few at a time,
and their predictions merged with Gaussian weights (MultiDiffusion, arXiv 2302.08113), so that the sampler itself sees
one picture. Encoding, hints and decoding go by the same tiles: nothing larger than a few of them is ever inside a
network, and memory grows with the picture's own arrays only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from cassr_jax.diffusion.guidance import guide
from cassr_jax.diffusion.samplers import Plan, Sampler, advance, begin, start_latents
from cassr_jax.imaging import tiling
from cassr_jax.models.denoisers import Denoiser
from cassr_jax.models.vae import AutoencoderKL


@dataclass(frozen=True)
class StageLayout:
    """What is static about a run: it decides the shapes, and with them what is compiled.

    Attributes:
        tiles: over the latents of the canvas.
        factor: pixels per latent along a side.
        at_once: tiles in one call of a network.
        sampler: how a step is taken.
        guided: whether negative prompts are denoised too.
    """

    tiles: tiling.Tiles
    factor: int
    at_once: int
    sampler: Sampler
    guided: bool


def run_stage(
    vae: AutoencoderKL,
    denoiser: Denoiser,
    encoder_hidden_states: jax.Array,
    images: tuple[jax.Array, ...],
    start: jax.Array | None,
    noise: jax.Array,
    plan: Plan,
    guidance_scale: jax.Array,
    layout: StageLayout,
    report: Callable[[jax.Array], None] | None = None,
) -> jax.Array:
    """Sample B pictures of one size.

    Args:
        encoder_hidden_states: (2, L, C), the negative prompt's and the prompt's.
        images: what the denoiser reads, (B, H, W, 3) in [-1, 1] each, H and W those of the canvas.
        start: the image whose latents the initial noise is mixed into; None for zeros, which is noise alone.
        noise: (B, h, w, 4) unit normal.
        plan: timesteps and coefficients of the sampler.
        guidance_scale: scalar, used when `layout.guided`.
        report: called on the host with the number of each finished step.

    Returns:
        (B, H, W, 3) float32, about [-1, 1], not clipped.
    """
    tiles, pixels = layout.tiles, layout.tiles.scaled(layout.factor)
    at_once = min(layout.at_once, len(noise) * tiles.count)
    latents = jnp.zeros_like(noise)
    if start is not None:
        encoded = map_tiles(vae.encode, tiling.gather(start, pixels), at_once)
        latents = tiling.merge(encoded, tiles)

    prompts = encoder_hidden_states if layout.guided else encoder_hidden_states[1:]
    text = denoiser.embed_text(jnp.repeat(prompts, at_once, axis=0))
    hints = map_tiles(lambda cut: denoiser.embed_images(*cut), tuple(tiling.gather(i, pixels) for i in images), at_once)
    time_table = denoiser.embed_time(jnp.asarray(plan.timesteps))

    def denoise(x: jax.Array, step: jax.Array) -> jax.Array:
        temb = jax.tree.map(lambda table: jax.lax.dynamic_index_in_dim(table, step, keepdims=True), time_table)

        def predict(chunk: tuple[jax.Array, Any]) -> jax.Array:
            cut, cut_hints = chunk
            if not layout.guided:
                return denoiser(cut, temb, text, cut_hints).astype(jnp.float32)
            negative, positive = jnp.split(denoiser(jnp.concatenate([cut] * 2), temb, text, cut_hints), 2)
            return guide(negative, positive, guidance_scale)

        prediction = tiling.merge(map_tiles(predict, (tiling.gather(x, tiles), hints), at_once), tiles)
        if report is not None:
            jax.debug.callback(report, step + 1)
        return prediction

    carry = begin(start_latents(plan, latents, noise))
    latents = advance(denoise, layout.sampler, plan, carry, 0, len(plan.timesteps)).latents
    decoded = map_tiles(lambda z: vae.decode(z).astype(jnp.float32), tiling.gather(latents, tiles), at_once)
    return tiling.merge(decoded, pixels)


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
