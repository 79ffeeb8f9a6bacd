"""The U-Net against torch diffusers: recorded outputs always, the live program where it is installed."""

import json
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.models.parameters import abstract, merge
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.weights.convert import from_torch
from tests import narrow


@pytest.mark.parametrize("name", narrow.UNETS)
@pytest.mark.parametrize("output", ["sample", "controlled"])
def test_equals_recorded_diffusers(networks_golden, name, output):
    actual = narrow.run_diffusion(name)[output]
    assert actual.dtype == jnp.float32
    assert narrow.relative_l2(actual, networks_golden[f"{name}/{output}"]) <= 1e-5


@pytest.mark.parametrize("name", narrow.UNETS)
def test_weights_have_the_published_names_and_shapes(networks_golden, name):
    _, shapes = abstract(narrow.unet_factory(name))
    published = json.loads(str(networks_golden["shapes"]))[f"unet/{name}"]
    from_torch({key: np.empty(shape, np.float32) for key, shape in published.items()}, shapes)  # raises otherwise


@pytest.mark.reference
@pytest.mark.parametrize("name", narrow.UNETS)
def test_equals_diffusers(name):
    pytest.importorskip("torch")
    from tests import references

    assert max(narrow.errors(narrow.run_diffusion(name), references.run_diffusion(name)).values()) <= 1e-5


def test_default_config_is_stable_diffusion_15():
    _, shapes = abstract(lambda rngs: UNet(UNetConfig(), rngs=rngs))
    assert sum(np.prod(shape.shape, dtype=int) for shape in shapes.values()) == 859_520_964
    # What DESIGN says of SD-1.5's image attention: the channels of the skip that every transformer's layer consumes.
    config = UNetConfig()
    consumed = [[(width, config.skip_channels[skip]) for width, skip in block] for block in config.up_transformers]
    assert consumed == [
        [],
        [(1280, 1280), (1280, 1280), (1280, 640)],
        [(640, 640), (640, 640), (640, 320)],
        [(320, 320), (320, 320), (320, 320)],
    ]


@pytest.mark.parametrize("name", narrow.UNETS)
def test_skips_are_as_the_config_says(name):
    config = narrow.UNETS[name]
    graphdef, params = narrow.random_network(narrow.unet_factory(name))
    skips = jax.eval_shape(
        lambda p, given: _skips(graphdef, p, given), params, narrow.inputs(config.cross_attention_dim)
    )
    assert tuple(skip.shape[-1] for skip in skips) == config.skip_channels
    halved = [after.shape[1] < before.shape[1] for before, after in pairwise(skips)]
    assert [down for _, down in config.skips] == [False, *halved]


def _skips(graphdef, params, given):
    unet = merge(graphdef, params)
    return unet.encode(given.latents, unet.embed_time(given.timesteps), unet.text_key_values(given.context))[1]


def test_rejects_wrong_block_types():
    with pytest.raises(ValueError, match="expected 4, one for each width"):
        replace(UNetConfig(), up_block_types=("UpBlock2D",) * 3)
    with pytest.raises(ValueError, match=r"block types hold \['AttnDownBlock2D'\]"):
        replace(UNetConfig(), down_block_types=("AttnDownBlock2D",) * 4)
