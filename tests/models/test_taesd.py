"""TAESD against torch diffusers, and its own contract."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.models.parameters import abstract, merge
from cassr_jax.models.taesd import AutoencoderTiny, TAESDConfig
from cassr_jax.weights.convert import from_torch
from tests import narrow


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """What `tests/golden/make_taesd.py` recorded."""
    with np.load(Path(__file__).parents[1] / "golden" / "taesd.npz") as file:
        return dict(file)


def test_both_ways_equal_recorded_diffusers(golden):
    expected = {name: golden[name] for name in ("encoded", "decoded")}
    errors = narrow.errors(narrow.run_taesd(narrow.TAESD), expected)
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.reference
@pytest.mark.parametrize("config", [narrow.TAESD, TAESDConfig()], ids=["narrow", "full"])
def test_both_ways_equal_diffusers(config):
    pytest.importorskip("torch")
    from tests import references

    errors = narrow.errors(narrow.run_taesd(config), references.run_taesd(config))
    assert max(errors.values()) <= 1e-5, errors


def test_weights_have_the_published_names_and_shapes(golden):
    _, shapes = abstract(lambda rngs: AutoencoderTiny(narrow.TAESD, rngs=rngs))
    published = json.loads(str(golden["shapes"]))
    from_torch({key: np.empty(shape, np.float32) for key, shape in published.items()}, shapes)  # raises otherwise


def test_default_is_the_published_network():
    _, shapes = abstract(lambda rngs: AutoencoderTiny(TAESDConfig(), rngs=rngs))
    assert sum(np.prod(shape.shape, dtype=int) for shape in shapes.values()) == 2_445_063
    assert TAESDConfig().factor == 8


def test_latents_are_squashed_smoothly():
    """A U-Net's guess may lie far outside of what the autoencoder's latents are."""
    graphdef, params = narrow.random_network(lambda rngs: AutoencoderTiny(narrow.TAESD, rngs=rngs))
    net, sign = merge(graphdef, params), np.sign(narrow.inputs().latents)
    far, farther = (np.asarray(net.decode(jnp.asarray(size * sign))) for size in (60.0, 6000.0))
    np.testing.assert_array_equal(far, farther)
    assert np.abs(far - net.decode(jnp.asarray(sign))).max() > 0.1


def test_bfloat16_stays_near_float32(golden):
    _, params = narrow.random_network(lambda rngs: AutoencoderTiny(narrow.TAESD, rngs=rngs))
    graphdef, _ = abstract(lambda rngs: AutoencoderTiny(narrow.TAESD, dtype=jnp.bfloat16, rngs=rngs))
    made = merge(graphdef, params).decode(jnp.asarray(4 * narrow.inputs().latents))
    assert made.dtype == jnp.bfloat16
    assert narrow.relative_l2(made, golden["decoded"]) <= 2e-2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"decoder_block_out_channels": (64, 64, 32, 32)}, "decoder_block_out_channels is .*expected the same width"),
        ({"num_decoder_blocks": (3, 3, 1)}, r"num_decoder_blocks \(3, 3, 1\), expected 4 levels in both"),
        ({"encoder_block_out_channels": (64, 64)}, r"encoder_block_out_channels is \(64, 64\).*expected 4 levels"),
        ({"num_encoder_blocks": (1, 3, 3, 3000)}, "num_encoder_blocks is 3000, expected 1 to 1000"),
        ({"latent_channels": 0}, "latent_channels is 0, expected 1 to"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        TAESDConfig(**changes)
