"""The axes of arrays are checked in the tests."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from cassr_jax.diffusion.guidance import guide
from cassr_jax.diffusion.schedule import Schedule
from tests.conftest import CHECKED

LATENTS = jnp.zeros((2, 3, 3, 4))


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError, match="'positive'"):
        guide(LATENTS, LATENTS[:1], 2.0)  # would broadcast
    with pytest.raises(TypeCheckError, match="'t'"):
        Schedule().add_noise(LATENTS, LATENTS, jnp.zeros(3, int))


def test_a_wrong_shape_is_refused_while_tracing():
    with pytest.raises(TypeCheckError, match="'positive'"):
        jax.eval_shape(lambda x: guide(x, x[:, :1], 2.0), LATENTS)


def test_every_module_that_is_to_be_checked_is_there():
    assert all(map(importlib.util.find_spec, CHECKED))
