"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

Guidance is linear, and at a given x_t all prediction types are affine in each other, so it has the same effect on
predictions of noise, velocity and x_0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def guide(
    negative: Float[Array, "batch *shape"], positive: Float[Array, "batch *shape"], scale: float | Float[Array, ""]
) -> Float[Array, "batch *shape"]:
    """negative + scale (positive - negative), in float32.

    Args:
        negative: the prediction for the negative (or empty) prompt.
        positive: the prediction for the prompt.
        scale: 1 gives `positive`, 0 gives `negative`, and above 1 the result lies beyond `positive`.
    """
    negative, positive = negative.astype(jnp.float32), positive.astype(jnp.float32)
    return negative + scale * (positive - negative)
