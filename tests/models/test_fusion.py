"""Fusion: what it leaves alone before training, what trains, and where it stands in the decoder."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassr_jax.models.fusion import Fusion, FusionConfig
from cassr_jax.models.parameters import abstract, initialise, merge
from cassr_jax.models.vae import AutoencoderKL
from tests import narrow

VAE = narrow.VAES["without_attention"]
CONFIG = FusionConfig(VAE.block_out_channels, strides=(1, 2, 4), num_guides=2, num_blocks=1)
RNG = np.random.default_rng(0)
PICTURES = jnp.asarray(RNG.uniform(-1, 1, (2, 1, 16, 24, 3)), jnp.float32)  # two guides, (B, H, W, 3) each
LATENTS = jnp.asarray(RNG.normal(size=(1, 4, 6, 4)), jnp.float32)

vae_graphdef, vae_params = narrow.random_network(lambda rngs: AutoencoderKL(VAE, rngs=rngs))


def fused(graphdef, params, weight=1.0, pictures=PICTURES):
    vae = merge(vae_graphdef, vae_params)
    return vae.decode(LATENTS, merge(graphdef, params).bind([vae.features(x) for x in pictures], weight))


def plain():
    return merge(vae_graphdef, vae_params).decode(LATENTS)


def untrained(config=CONFIG):
    return initialise(lambda rngs: Fusion(config, rngs=rngs), jax.random.key(0))


def trained(config=CONFIG):
    return narrow.random_network(lambda rngs: Fusion(config, rngs=rngs), seed=1)


def test_untrained_it_is_the_plain_decoder_bit_for_bit():
    np.testing.assert_array_equal(fused(*untrained()), plain())


def test_the_weight_goes_from_the_plain_decoder_to_the_fused_one():
    graphdef, params = trained()
    np.testing.assert_array_equal(fused(graphdef, params, 0.0), plain())
    whole, half = (np.abs(fused(graphdef, params, weight) - plain()).mean() for weight in (1.0, 0.5))
    assert 0 < half < whole


@pytest.mark.parametrize("guide", range(2))
def test_every_guide_is_seen(guide):
    graphdef, params = trained()
    changed = PICTURES.at[guide].multiply(-1)
    assert np.abs(fused(graphdef, params, pictures=changed) - fused(graphdef, params)).max() > 1e-3


def test_the_order_of_the_guides_matters():
    graphdef, params = trained()
    assert np.abs(fused(graphdef, params, pictures=PICTURES[::-1]) - fused(graphdef, params)).max() > 1e-3


def test_every_leaf_has_a_gradient_by_the_second_step():
    graphdef, params = untrained()
    target = RNG.uniform(-1, 1, (1, 16, 24, 3)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(jnp.square(fused(graphdef, params) - target))))
    first = gradient(params)
    moving = {name for name, value in first.items() if np.any(value)}
    assert moving == {name for name in params if ".conv_out." in name}
    second = gradient(optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, first)))
    assert [name for name, value in second.items() if not np.any(value)] == []


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_level_is_fused_with_the_encoders_features_of_its_size(stride):
    """The decoder and the block at `stride` see arrays of one size, of which the encoder's are the guides' own."""
    config = FusionConfig(VAE.block_out_channels, (stride,), num_guides=2, num_blocks=1)
    vae, seen = merge(vae_graphdef, vae_params), {}
    features = [vae.features(x) for x in PICTURES]
    fuse = merge(*trained(config)).bind(features)

    def record(at, x):
        seen[at] = x, fuse(at, x)
        return seen[at][1]

    vae.decode(LATENTS, record)
    assert [*seen] == [4, 2, 1]
    assert {at for at, (x, changed) in seen.items() if changed is not x} == {stride}
    level = stride.bit_length() - 1
    assert seen[stride][0].shape == features[0][level].shape == features[1][level].shape


def test_a_block_reads_the_decoder_first_and_the_guides_in_their_order():
    config = FusionConfig(VAE.block_out_channels, (2,), num_guides=2, num_blocks=1)
    features = [[jnp.full((1, 8, 12, width), float(guide)) for width in VAE.block_out_channels] for guide in (1, 2)]
    fusion = merge(*trained(config))
    x = jnp.zeros((1, 8, 12, VAE.block_out_channels[1]))
    found = fusion.bind(features)(2, x) - x
    np.testing.assert_array_equal(found, fusion.blocks[0](x, [features[0][1], features[1][1]]))
    (block,) = fusion.blocks
    inner = block.resnets[0](block.conv_in(jnp.concatenate([x, x + 1, x + 2], axis=-1)))
    np.testing.assert_allclose(found, block.conv_out(jax.nn.leaky_relu(inner, 0.2)), atol=1e-5)


def test_features_are_the_encoders_own():
    """Each level's, halved, is what the next one reads, and the last one's lead to the latents."""
    encoder = merge(vae_graphdef, vae_params).encoder
    features = encoder.features(PICTURES[0])
    for (above, below), (before, after) in zip(pairwise(encoder.down_blocks), pairwise(features), strict=True):
        np.testing.assert_array_equal(below(above.downsamplers[0](before))[0], after)
    ended = encoder.conv_out(jax.nn.silu(encoder.conv_norm_out(encoder.mid_block(features[-1]))))
    np.testing.assert_array_equal(ended, encoder(PICTURES[0]))


def test_default_stands_where_stablesr_fuses():
    _, shapes = abstract(lambda rngs: Fusion(FusionConfig(), rngs=rngs))
    assert shapes["blocks.0.conv_in.kernel"].shape == (3, 3, 2 * 256, 256)
    assert shapes["blocks.1.conv_in.kernel"].shape == (3, 3, 2 * 512, 512)
    assert not any(name.startswith("blocks.2") for name in shapes)


@pytest.mark.parametrize("strides", [(), (3,), (16,), (2, 2)])
def test_a_level_that_is_not_there_is_refused(strides):
    with pytest.raises(ValueError, match="strides"):
        FusionConfig(strides=strides)


def test_fewer_guides_than_the_network_has_are_refused():
    with pytest.raises(ValueError, match="1 guides, expected 2"):
        fused(*untrained(), pictures=PICTURES[:1])
