"""LPIPS and DISTS of two batches in one call."""

import jax

from cassr_jax.models.parameters import Params
from cassr_jax.models.perceptual import Backbone, dists_between, dists_features, lpips_between, lpips_features


def lpips(params: Params, a: jax.Array, b: jax.Array, net: Backbone = "alexnet") -> jax.Array:
    """LPIPS of images in [-1, 1]."""
    return lpips_between(params, *(lpips_features(params, x, net) for x in (a, b)))


def dists(params: Params, a: jax.Array, b: jax.Array) -> jax.Array:
    """DISTS of images in [-1, 1]."""
    return dists_between(params, *(dists_features(params, x) for x in (a, b)))
