"""The autoencoder against torch diffusers, and its own contract."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.models.parameters import abstract, merge
from cassr_jax.models.vae import AutoencoderKL, VAEConfig
from cassr_jax.weights.convert import from_torch
from tests import narrow


def recorded(golden: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.split("/")[1]: value for key, value in golden.items() if key.startswith(f"{name}/")}


@pytest.mark.parametrize("name", narrow.VAES)
def test_both_ways_equal_recorded_diffusers(networks_golden, name):
    errors = narrow.errors(narrow.run_vae(name), recorded(networks_golden, name))
    assert sorted(errors) == ["decoded", "logvar", "mean"]
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.reference
@pytest.mark.parametrize("name", narrow.VAES)
def test_both_ways_equal_diffusers(name):
    pytest.importorskip("torch")
    from tests import references

    errors = narrow.errors(narrow.run_vae(name), references.run_vae(name))
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("name", narrow.VAES)
def test_weights_have_the_published_names_and_shapes(networks_golden, name):
    _, shapes = abstract(narrow.vae_factory(name))
    published = json.loads(str(networks_golden["shapes"]))[f"vae/{name}"]
    from_torch({key: np.empty(shape, np.float32) for key, shape in published.items()}, shapes)  # raises otherwise


def test_default_config_is_stable_diffusion_15():
    _, shapes = abstract(lambda rngs: AutoencoderKL(VAEConfig(), rngs=rngs))
    assert sum(np.prod(shape.shape, dtype=int) for shape in shapes.values()) == 83_653_863
    assert VAEConfig().factor == 8


class TestLatents:
    """One level and one layer: what is tested here does not depend on the depth."""

    config = VAEConfig(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False)
    images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (1, 8, 8, 3)), jnp.float32)

    def net(self, config: VAEConfig | None = None, **changes: np.ndarray) -> AutoencoderKL:
        graphdef, params = narrow.random_network(lambda rngs: AutoencoderKL(config or self.config, rngs=rngs))
        return merge(graphdef, params | changes)

    def test_encoding_scales_the_mean(self):
        net = self.net()
        np.testing.assert_array_equal(net.encode(self.images), net.moments(self.images)[0] * self.config.scaling_factor)

    def test_decode_undoes_the_scale(self):
        latents = jnp.asarray(np.random.default_rng(2).normal(size=(1, 8, 8, 4)), jnp.float32)
        doubled = self.net(replace(self.config, scaling_factor=2 * self.config.scaling_factor))
        np.testing.assert_allclose(doubled.decode(2 * latents), self.net().decode(latents), rtol=1e-5, atol=1e-5)

    def test_log_variance_is_clipped(self):
        bias = np.array([0, 0, 0, 0, 100, -100, 1, 0], np.float32)
        kernel = np.zeros((1, 1, 8, 8), np.float32)
        _, logvar = self.net(**{"quant_conv.kernel": kernel, "quant_conv.bias": bias}).moments(self.images)
        np.testing.assert_array_equal(logvar[0, 0, 0], [20, -30, 1, 0])
