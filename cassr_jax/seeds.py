"""Seeds that a person gives."""

import jax

from cassr_jax.errors import InputError


def check_seed(seed: int) -> None:
    """
    Raises:
        InputError: the seed is negative, or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}, expected 0 to {2**63 - 1}")


def seed_key(seed: int) -> jax.Array:
    """A key of all 63 bits of a seed; `jax.random.key` alone takes 32."""
    check_seed(seed)
    return jax.random.fold_in(jax.random.key(seed & 0xFFFFFFFF), seed >> 32)
