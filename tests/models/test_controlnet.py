"""The ControlNet against torch diffusers, and what it gives before training."""

import json

import jax
import numpy as np
import pytest

from cassr_jax.models.controlnet import ControlNet, ControlNetConfig
from cassr_jax.models.parameters import abstract, initialise, merge
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.convert import from_torch
from tests import narrow


def outputs(name: str) -> list[str]:
    return [f"residual.{i}" for i in range(len(narrow.UNETS[name].skips))] + ["middle"]


@pytest.mark.parametrize("name", narrow.UNETS)
def test_every_output_equals_recorded_diffusers(networks_golden, name):
    actual = narrow.run_diffusion(name)
    errors = {key: narrow.relative_l2(actual[key], networks_golden[f"{name}/{key}"]) for key in outputs(name)}
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("name", narrow.UNETS)
def test_weights_have_the_published_names_and_shapes(networks_golden, name):
    _, shapes = abstract(narrow.controlnet_factory(name))
    published = json.loads(str(networks_golden["shapes"]))[f"controlnet/{name}"]
    from_torch({key: np.empty(shape, np.float32) for key, shape in published.items()}, shapes)  # raises otherwise


def test_stable_diffusion_15_has_13_outputs_and_as_many_weights_as_published():
    _, shapes = abstract(lambda rngs: ControlNet(UNetConfig(), ControlNetConfig(), rngs=rngs))
    zero_convs = [
        name for name in shapes if name.startswith(("controlnet_down", "controlnet_mid")) and "kernel" in name
    ]
    assert len(zero_convs) == 13
    assert sum(np.prod(shape.shape, dtype=int) for shape in shapes.values()) == 361_279_120


def test_untrained_it_adds_nothing_but_has_features():
    config = ControlNetConfig(conditioning_embedding_out_channels=(8, 12, 16))
    graphdef, params = initialise(
        lambda rngs: ControlNet(narrow.SMALL, config, rngs=rngs), jax.random.key(0, impl="rbg")
    )

    @jax.jit
    def run(params, given):
        net = merge(graphdef, params)
        hint = net.embed_hint(given.images)
        time, text = net.embed_time(given.timesteps), net.text_key_values(given.context)
        return net(given.latents, time, text, hint), hint

    output, hint = run(params, narrow.inputs(narrow.SMALL.cross_attention_dim))
    for residual in [*output.residuals, output.middle, hint]:
        np.testing.assert_array_equal(residual, 0)
    assert all(np.std(feature) > 0.1 for feature in output.features)
    assert [feature.shape for feature in output.features] == [residual.shape for residual in output.residuals]
