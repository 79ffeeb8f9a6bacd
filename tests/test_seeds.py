"""Every seed a key of its own."""

import jax
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.seeds import seed_key


def test_large_seeds_make_noise_of_their_own():
    seeds = (0, 1, 2**32, 2**32 + 1, 2**62)
    drawn = {np.asarray(jax.random.normal(seed_key(seed), (4,))).tobytes() for seed in seeds}
    assert len(drawn) == len(seeds)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_others_are_refused(seed):
    with pytest.raises(InputError, match=f"seed is {seed}, expected a whole number of at least 0 and below"):
        seed_key(seed)
