"""The guided decoder: it begins at the reference, corrects it by all that it reads, and learns in every layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassr_jax.models.fusion import Fusion, FusionConfig
from cassr_jax.models.guided_decoder import GuidedDecoder, GuidedDecoderConfig, decode_guided, enlarge, fold
from cassr_jax.models.parameters import initialise, merge
from cassr_jax.models.vae import AutoencoderKL
from tests import narrow

VAE = narrow.VAES["without_attention"]
CONFIG = GuidedDecoderConfig(
    VAE.latent_channels, VAE.factor, num_guides=2, features=8, num_blocks=2, pixel_features=6, num_pixel_blocks=2
)
RNG = np.random.default_rng(0)
PICTURES = list(jnp.asarray(RNG.uniform(-1, 1, (2, 1, 16, 24, 3)), jnp.float32))  # LQ and reference
LATENTS = jnp.asarray(RNG.normal(size=(1, 4, 6, 4)), jnp.float32)

vae_graphdef, vae_params = narrow.random_network(lambda rngs: AutoencoderKL(VAE, rngs=rngs))
vae = merge(vae_graphdef, vae_params)


def untrained():
    return initialise(lambda rngs: GuidedDecoder(CONFIG, rngs=rngs), jax.random.key(0))


def trained():
    return narrow.random_network(lambda rngs: GuidedDecoder(CONFIG, rngs=rngs), seed=1)


def test_folding_keeps_every_pixel_in_its_square():
    picture = jnp.asarray(RNG.uniform(size=(2, 8, 12, 3)), jnp.float32)
    folded = fold(picture, 4)
    assert folded.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(folded[1, 1, 2], picture[1, 4:8, 8:12].reshape(-1))


def test_enlarging_leaves_no_squares():
    """A ramp stays a ramp, but for the half square at each border, where nothing lies beyond."""
    ramp = jnp.broadcast_to(jnp.arange(6.0)[None, :, None, None], (1, 6, 2, 1))
    found = enlarge(ramp, (24, 8))
    assert found.shape == (1, 24, 8, 1)
    np.testing.assert_allclose(np.diff(found[0, 2:-2, 0, 0]), 0.25, atol=1e-5)


def test_untrained_it_gives_the_reference_bit_for_bit():
    np.testing.assert_array_equal(merge(*untrained()).decode(vae, LATENTS, PICTURES), PICTURES[1])


@pytest.mark.parametrize("changed", ["latents", "lq", "reference"])
def test_the_correction_depends_on_all_that_it_reads(changed):
    decoder = merge(*trained())
    latents = -LATENTS if changed == "latents" else LATENTS
    guides = [-x if name == changed else x for name, x in zip(("lq", "reference"), PICTURES, strict=True)]
    before, after = (made - given[1] for made, given in (
        (decoder(LATENTS, PICTURES), PICTURES), (decoder(latents, guides), guides)))  # fmt: skip
    assert np.abs(after - before).max() > 1e-3


def test_a_correction_reaches_only_its_neighbourhood():
    """One latent moves no pixel beyond what convolutions reach: 5 and 1 latents while enlarging, then 4 pixels."""
    decoder, latents = merge(*trained()), jnp.zeros((1, 20, 4, VAE.latent_channels))
    pictures = [jnp.zeros((1, 80, 16, 3))] * 2
    moved = np.abs(decoder(latents.at[0, 0].set(1.0), pictures) - decoder(latents, pictures)).max((0, 2, 3))
    (rows,) = np.nonzero(moved)
    assert 4 * 2 <= rows.max() < 4 * 7 + 4


def test_the_weight_goes_from_the_plain_decoder_to_this_one():
    decoder, plain = merge(*trained()), vae.decode(LATENTS)
    whole = decoder.decode(vae, LATENTS, PICTURES)
    found = [decoder.decode(vae, LATENTS, PICTURES, jnp.float32(weight)) for weight in (0, 0.5, 1)]
    for made, expected in zip(found, (plain, (plain + whole) / 2, whole), strict=True):
        np.testing.assert_allclose(made, expected, atol=1e-5)
    assert np.abs(whole - plain).max() > 0.1


def test_every_leaf_has_a_gradient_by_the_second_step():
    graphdef, params = untrained()
    target = RNG.uniform(-1, 1, (1, 16, 24, 3)).astype(np.float32)
    gradient = jax.jit(
        jax.grad(lambda params: jnp.mean(jnp.square(merge(graphdef, params)(LATENTS, PICTURES) - target)))
    )
    first = gradient(params)
    assert {name for name, value in first.items() if np.any(value)} == {"conv_out.kernel", "conv_out.bias"}
    second = gradient(optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, first)))
    assert [name for name, value in second.items() if not np.any(value)] == []


def test_fewer_guides_than_the_network_has_are_refused():
    with pytest.raises(ValueError, match="1 guides, expected 2"):
        merge(*trained()).decode(vae, LATENTS, PICTURES[:1])


@pytest.mark.parametrize(
    "name",
    ["latent_channels", "factor", "num_guides", "features", "num_blocks", "pixel_features", "num_pixel_blocks"],
)
def test_a_config_without_layers_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        GuidedDecoderConfig(**{name: 0})


def test_a_picture_is_decoded_by_what_there_is():
    wraps = merge(*narrow.random_network(lambda rngs: Fusion(FusionConfig(VAE.block_out_channels), rngs=rngs), seed=2))
    decoder = merge(*trained())
    made = [decode_guided(vae, fusion, LATENTS, PICTURES) for fusion in (None, wraps, decoder)]
    features = vae.features(PICTURES[0])
    expected = [vae.decode(LATENTS), vae.decode(LATENTS, wraps.bind([features])), decoder(LATENTS, PICTURES)]
    for found, known in zip(made, expected, strict=True):
        np.testing.assert_array_equal(found, known)
