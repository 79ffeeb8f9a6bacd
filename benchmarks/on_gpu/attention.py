"""The kernels of attention against each other, in value and in time, forward and backward."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.on_gpu.sizes import sizes
from benchmarks.on_gpu.timing import Figures, compiled, timed
from cassr_jax.models.dot_product import flash_kernels, in_blocks

_PLATFORMS = {"gpu": "cuda"}  # JAX's name of a back end -> of the platform that it compiles for, where they differ


def kernels(narrow: bool, head_dim: int, tokens: int) -> Figures:
    """Self-attention of `tokens` positions by each kernel that this device has for this size, in bfloat16.

    The errors are relative L2 norms of the result and of each gradient, against plain products in float32.
    """
    given = sizes(narrow)
    rng = np.random.default_rng(0)
    shape = (*given.heads, tokens, head_dim)
    # Query, key, value, and the gradient of the result.
    arrays = [jnp.asarray(rng.standard_normal(shape, np.float32), jnp.bfloat16) for _ in range(4)]
    found: dict[str, Callable] = {"plain": in_blocks}
    platform = jax.default_backend()
    if flash := flash_kernels(*arrays[:2]).get(_PLATFORMS.get(platform, platform)):
        found[flash.__name__] = flash
    with jax.default_matmul_precision("highest"):
        expected = _gradients(in_blocks)(*(x.astype(jnp.float32) for x in arrays))
    times, errors = {}, {}
    for name, kernel in found.items():
        forward, both = compiled(jax.jit(kernel), *arrays[:3]), compiled(_gradients(kernel), *arrays)
        times[f"{name}, forward"] = timed(partial(forward.run, *arrays[:3]), given.runs) | forward.figures
        times[f"{name}, forward and backward"] = timed(partial(both.run, *arrays), given.runs) | both.figures
        labels = ("result", "of query", "of key", "of value")
        errors[name] = dict(zip(labels, map(_error, both.run(*arrays), expected), strict=True))
    return {"times": times, "errors": errors}


def _gradients(kernel: Callable) -> jax.stages.Wrapped:
    """The kernel's result and its three gradients, from query, key, value and the gradient of the result."""

    def both(query: jax.Array, key: jax.Array, value: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        made, pull = jax.vjp(kernel, query, key, value)
        return (made, *pull(cotangent))

    return jax.jit(both)


def _error(actual: jax.Array, expected: jax.Array) -> float:
    return float(jnp.linalg.norm(actual.astype(jnp.float32) - expected) / jnp.linalg.norm(expected))
