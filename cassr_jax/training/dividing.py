"""Parameters that are gathered where a traced function uses them."""

import jax
import jax.numpy as jnp

from cassr_jax.choices import DType
from cassr_jax.models.parameters import Params
from cassr_jax.sharding.placement import Placement

KERNEL = ".kernel"  # how the names of those parameters end that a product takes


def gathered(params: Params, placement: Placement, dtype: DType) -> Params:
    """The parameters as the networks use them, gathered over the axes that divide the examples.

    Kernels travel in the type of the computation if that is the narrower one. The networks would round them in the same
    way where they use them, so no value changes, and gradients keep the parameters' own type.
    """
    divided_as, whole = placement.held(params), placement.used(params)

    def whole_of(name: str, value: jax.Array) -> jax.Array:
        stays = divided_as[name] == whole[name]
        narrow = name.endswith(KERNEL) and jnp.dtype(dtype).itemsize < value.dtype.itemsize and not stays

        # One function for each parameter: one of all of them would compute the frozen ones' gradients too.
        @jax.custom_vjp
        def gather(value: jax.Array) -> jax.Array:
            # The first constraint keeps the compiler from gathering first and rounding then.
            sent = jax.lax.with_sharding_constraint(value.astype(dtype), divided_as[name]) if narrow else value
            return jax.lax.with_sharding_constraint(sent, whole[name]).astype(value.dtype)

        def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
            return (placement.sum({name: gradient})[name],)

        gather.defvjp(lambda value: (gather(value), None), backward)
        return gather(value)

    return {name: whole_of(name, value) for name, value in params.items()}
