"""The values with which parameters start.

Without a key an initializer only gives its array's shape, so that a network can be described without drawing anything
(`cassr_jax.models.parameters.abstract`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

Initializer = Callable[..., Any]


def or_shape(draw: Initializer) -> Initializer:
    """The same initializer, which gives a `jax.ShapeDtypeStruct` where the key is None."""

    def initial(key: jax.Array | None, shape: Sequence[int], dtype: DTypeLike = jnp.float32, **options: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype) if key is None else draw(key, shape, dtype, **options)

    return initial


ZEROS, ONES = or_shape(initializers.zeros), or_shape(initializers.ones)
NORMAL = or_shape(initializers.normal(1.0))
# torch's default for convolutions and linear layers, kaiming-uniform with a = sqrt(5): U(-1, 1) / sqrt(fan_in).
UNIFORM = or_shape(initializers.variance_scaling(1 / 3, "fan_in", "uniform"))
EMBEDDING = or_shape(initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0))
