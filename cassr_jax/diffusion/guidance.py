"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

Guidance is linear, and at a given x_t all prediction types are affine in each other, so it has the same effect on
predictions of noise, velocity and x_0.
"""

import jax.numpy as jnp

from cassr_jax.typing import Latents, Scalar


def guide(negative: Latents, positive: Latents, scale: float | Scalar) -> Latents:
    """negative + scale (positive - negative), in float32.

    Args:
        negative: the prediction for the negative (or empty) prompt.
        positive: the prediction for the prompt.
        scale: 1 gives `positive`, 0 gives `negative`, and above 1 the result lies beyond `positive`.
    """
    negative, positive = negative.astype(jnp.float32), positive.astype(jnp.float32)
    return negative + scale * (positive - negative)
