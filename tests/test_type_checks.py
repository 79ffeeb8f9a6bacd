"""The axes of arrays are checked in the tests."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from cassr_jax.diffusion.guidance import guide
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.engine.layout import layout, tile_sizes
from cassr_jax.engine.waves import Blend
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


def test_a_wrong_shape_is_refused_on_the_host():
    sizes = tile_sizes(64, 8, 8, 0.25)
    with pytest.raises(TypeCheckError, match="'tile'"):
        Blend(layout(64, 64, sizes, 8, 0.25)).add(0, np.zeros((64, 64, 1), np.float32))  # would broadcast


def test_every_module_that_is_to_be_checked_is_there():
    assert all(map(importlib.util.find_spec, CHECKED))
