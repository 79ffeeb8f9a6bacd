"""All steps of a run on one batch of latents, taken as the program takes them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cassr_jax.diffusion.samplers import Carry, Sampler, Trajectory, take_step

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
"""(latents x_t, step index) -> the network's output."""


def take_steps(denoise: Denoise, sampler: Sampler, trajectory: Trajectory, carry: Carry, start, stop) -> Carry:
    """Take the steps start <= i < stop, with one call of `denoise` each."""

    def body(i, carry):
        return take_step(sampler, trajectory, carry, denoise(carry.latents, jnp.asarray(i)), i)

    return jax.lax.fori_loop(start, stop, body, carry)
