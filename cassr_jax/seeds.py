"""Random keys from the seeds that a person gives."""

import jax

from cassr_jax.ranges import SEED


def seed_key(seed: int) -> jax.Array:
    """A key from all 63 bits of a seed; `jax.random.key` alone takes 32.

    Raises:
        InputError: the seed is negative, or has more than 63 bits.
    """
    SEED.check("seed", seed)
    return jax.random.fold_in(jax.random.key(seed & 0xFFFFFFFF), seed >> 32)
