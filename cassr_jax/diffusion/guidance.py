"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): two predictions in one batch, then extrapolated.

The doubled batch is [negative, positive] everywhere, as in diffusers. Guidance is linear and all prediction types are
affine in each other at a given x_t, so it acts alike on noise, velocity and x_0.
"""

import jax
import jax.numpy as jnp

from cassr_jax.diffusion.samplers import Denoise

Scale = float | jax.Array


def is_guided(scale: Scale) -> bool:
    """Whether the negative half is needed: not for a plain number 1, where it would cancel out. A traced scale always
    counts as guided, so that one compiled function serves every value."""
    return isinstance(scale, jax.Array) or scale != 1


def guide(eps_uncond: jax.Array, eps_cond: jax.Array, scale: Scale) -> jax.Array:
    """eps_uncond + scale (eps_cond - eps_uncond), in float32; (B, ...) each."""
    uncond, cond = eps_uncond.astype(jnp.float32), eps_cond.astype(jnp.float32)
    return uncond + scale * (cond - uncond)


def guidance_batch(negative: jax.Array, positive: jax.Array, scale: Scale) -> jax.Array:
    """The condition that the network under `guided` is given: (2B, ...) [negative, positive], or `positive` (B, ...)
    alone where guidance is off. For anything equal in both halves (images, hints) pass it twice."""
    return jnp.concatenate([negative, positive]) if is_guided(scale) else positive


def guided(denoise: Denoise, scale: Scale) -> Denoise:
    """`denoise` under guidance: called once a step, with latents (2B, ...) whose halves are equal, or (B, ...) where
    guidance is off; its conditions are batched by `guidance_batch`.

    Args:
        denoise: the network on the doubled batch.
        scale: 1 is the conditional prediction alone, 0 the negative one, above 1 extrapolates. A Python number is
            static; an array may be traced.
    """
    if not is_guided(scale):
        return denoise

    def guided_denoise(latents: jax.Array, step: jax.Array) -> jax.Array:
        uncond, cond = jnp.split(denoise(jnp.concatenate([latents, latents]), step), 2)
        return guide(uncond, cond, scale)

    return guided_denoise
