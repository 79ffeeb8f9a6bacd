"""All steps of a run on one batch of latents, taken as the program takes them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cassr_jax.diffusion.trajectory import Carry, Sampler, Trajectory, take_step

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
"""(latents x_t, step index) -> the network's output."""


def take_steps(
    denoise: Denoise,
    sampler: Sampler,
    trajectory: Trajectory,
    carry: Carry,
    start,
    stop,
    noise: jax.Array | None = None,
) -> Carry:
    """Take the steps start <= i < stop, with one call of `denoise` each.

    Args:
        noise: that of every step, (steps, ...); a deterministic sampler takes none of it.
    """

    def body(i, carry):
        fresh = noise[i] if sampler.noisy else None
        return take_step(sampler, trajectory, carry, denoise(carry.latents, jnp.asarray(i)), i, fresh)

    return jax.lax.fori_loop(start, stop, body, carry)
