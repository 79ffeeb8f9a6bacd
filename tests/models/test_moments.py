import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cassr_jax.models.layers import GroupNorm
from cassr_jax.models.moments import given, recorded


def test_a_crop_by_the_moments_of_the_whole_is_the_crop_of_the_whole():
    norm = GroupNorm(2, 4, eps=1e-5, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 4)) * np.arange(8)[:, None], jnp.float32)
    with recorded() as moments:
        whole = norm(x)
    np.testing.assert_array_equal(whole, norm(x))
    crop = x[:, :4, 2:]
    with given(moments):
        np.testing.assert_array_equal(norm(crop), whole[:, :4, 2:])
    assert np.abs(norm(crop) - whole[:, :4, 2:]).max() > 0.1
    assert [m.mean.shape for m in moments] == [(2, 2, 1)]


def test_moments_of_another_network_are_refused():
    norm = GroupNorm(2, 4, eps=1e-5, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 2, 2, 4))
    with recorded() as moments:
        norm(norm(x))
    with pytest.raises(ValueError, match="1 of 2 moments were not asked for"), given(moments):
        norm(x)
    with pytest.raises(ValueError, match="more normalisations than the 2 recorded"), given(moments):
        norm(norm(norm(x)))
