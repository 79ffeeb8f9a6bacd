"""The shared layers against their definitions in float64 and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cassr_jax.models.layers import (
    Conv,
    Downsample,
    GroupNorm,
    LayerNorm,
    Linear,
    ResnetBlock,
    Upsample,
    timestep_embedding,
)
from cassr_jax.models.parameters import merge
from tests import narrow

RNG = np.random.default_rng(0)


def build(factory):
    """A layer with random weights; `factory(**kwargs)` takes dtype and rngs."""
    graphdef, params = narrow.random_network(lambda rngs: factory(dtype=jnp.float32, rngs=rngs))
    return merge(graphdef, params), params


def group_norm_by_hand(x: np.ndarray, groups: int, eps: float, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    grouped = x.astype(np.float64).reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(var + eps)).reshape(x.shape) * scale + bias


class TestGroupNorm:
    @pytest.mark.parametrize("eps", [1e-5, 1e-6])
    @pytest.mark.parametrize(
        ("mean", "deviation"), [(0.0, 1.0), (3.0, 1e-3), (0.0, 1e-3), (1000.0, 1.0), (-0.5, 100.0)]
    )
    def test_equals_its_definition(self, eps, mean, deviation):
        norm, params = build(lambda **kw: GroupNorm(4, 12, eps=eps, **kw))
        x = (mean + deviation * RNG.normal(size=(2, 5, 7, 12))).astype(np.float32)
        expected = group_norm_by_hand(x, 4, eps, params["scale"], params["bias"])
        # One rounding of the mean moves everything by 2^-24 |mean|.
        assert narrow.relative_l2(norm(jnp.asarray(x)), expected) <= 1e-6 + 2**-23 * abs(mean) / deviation

    def test_channels_of_a_group_with_far_apart_means(self):
        norm, params = build(lambda **kw: GroupNorm(2, 4, eps=1e-5, **kw))
        x = (np.array([-1000, 1000, 0, 1]) + RNG.normal(size=(1, 6, 6, 4))).astype(np.float32)
        expected = group_norm_by_hand(x, 2, 1e-5, params["scale"], params["bias"])
        assert narrow.relative_l2(norm(jnp.asarray(x)), expected) <= 1e-6

    def test_tokens_and_pictures_are_the_same(self):
        norm, _ = build(lambda **kw: GroupNorm(4, 8, eps=1e-5, **kw))
        x = jnp.asarray(RNG.normal(size=(2, 3, 5, 8)), jnp.float32)
        np.testing.assert_allclose(norm(x.reshape(2, 15, 8)).reshape(x.shape), norm(x), rtol=1e-6, atol=1e-6)

    def test_constant_input_gives_the_bias(self):
        norm, params = build(lambda **kw: GroupNorm(4, 8, eps=1e-5, **kw))
        out = norm(jnp.full((1, 4, 4, 8), 3.0))
        np.testing.assert_array_equal(out, np.broadcast_to(params["bias"], out.shape))

    def test_rejects_channels_that_do_not_divide(self):
        with pytest.raises(ValueError, match="norm_num_groups is 4, expected a divisor of the 10"):
            GroupNorm(4, 10, eps=1e-5, dtype=jnp.float32, rngs=nnx.Rngs(0))

    @pytest.mark.reference
    @pytest.mark.parametrize("ratio", [0.0, 1.0, 100.0, 3000.0])
    def test_no_further_from_the_truth_than_torch(self, ratio):
        torch = pytest.importorskip("torch")
        norm, params = build(lambda **kw: GroupNorm(4, 16, eps=1e-6, **kw))
        x = (ratio + RNG.normal(size=(2, 16, 16, 16))).astype(np.float32)
        weight, bias = (torch.from_numpy(np.asarray(params[name])) for name in ("scale", "bias"))
        nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        theirs = torch.nn.functional.group_norm(nchw, 4, weight, bias, 1e-6).permute(0, 2, 3, 1).numpy()
        truth = group_norm_by_hand(x, 4, 1e-6, params["scale"], params["bias"])
        error = narrow.relative_l2(norm(jnp.asarray(x)), truth)
        assert error <= max(1e-6, 1.5 * narrow.relative_l2(theirs, truth))


class TestUpsample:
    def upsample(self):
        layer, _ = build(lambda **kw: Upsample(3, **kw))
        layer.conv.kernel[...] = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
        layer.conv.bias[...] = jnp.zeros(3)
        return layer

    def test_repeats_every_pixel(self):
        x = jnp.asarray(RNG.normal(size=(1, 2, 3, 3)), jnp.float32)
        np.testing.assert_array_equal(self.upsample()(x), np.repeat(np.repeat(x, 2, 1), 2, 2))

    @pytest.mark.parametrize("shape", [(3, 5), (4, 5), (3, 6), (4, 6)])
    def test_crops_to_the_skip(self, shape):
        x = jnp.asarray(RNG.normal(size=(1, 2, 3, 3)), jnp.float32)
        expected = np.repeat(np.repeat(x, 2, 1), 2, 2)[:, : shape[0], : shape[1]]
        np.testing.assert_array_equal(self.upsample()(x, shape), expected)

    def test_crops_before_the_convolution(self):
        """The convolution sees zeros beyond the crop, as torch's does after interpolating to the odd size."""
        layer, _ = build(lambda **kw: Upsample(3, **kw))
        x = jnp.asarray(RNG.normal(size=(1, 2, 3, 3)), jnp.float32)
        repeated = np.repeat(np.repeat(x, 2, 1), 2, 2)[:, :3, :5]
        np.testing.assert_array_equal(layer(x, (3, 5)), layer.conv(repeated))


@pytest.mark.parametrize(("size", "symmetric", "asymmetric"), [(8, 4, 4), (7, 4, 3)])
def test_downsample_sizes(size, symmetric, asymmetric):
    x = jnp.zeros((1, size, size, 2))
    assert build(lambda **kw: Downsample(2, **kw))[0](x).shape == (1, symmetric, symmetric, 2)
    assert build(lambda **kw: Downsample(2, asymmetric=True, **kw))[0](x).shape == (1, asymmetric, asymmetric, 2)


def test_timestep_embedding_by_hand():
    timesteps = np.array([0, 1, 999.5], np.float32)
    angles = timesteps[:, None].astype(np.float64) * 10000.0 ** (-np.arange(8) / 8)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    # float32 angles near 1000 are known to 6e-5.
    np.testing.assert_allclose(timestep_embedding(jnp.asarray(timesteps), 16), expected, atol=1e-4)


def test_layer_norm_by_hand():
    norm, params = build(lambda **kw: LayerNorm(24, **kw))
    x = (100 + RNG.normal(size=(3, 5, 24))).astype(np.float32)
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    assert narrow.relative_l2(norm(x), normal * params["scale"] + params["bias"]) <= 1e-5


def test_zero_layers_start_at_zero_and_others_do_not():
    kwargs = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    for zero in (True, False):
        for layer in (Linear(4, 4, zero=zero, **kwargs), Conv(4, 4, 3, zero=zero, **kwargs)):
            assert bool((layer.kernel[...] == 0).all()) is zero
            assert bool((layer.bias[...] == 0).all())


@pytest.mark.parametrize(
    "layer",
    [
        lambda **kw: Linear(8, 8, **kw),
        lambda **kw: Conv(8, 8, 3, **kw),
        lambda **kw: GroupNorm(4, 8, eps=1e-5, **kw),
        lambda **kw: LayerNorm(8, **kw),
        lambda **kw: ResnetBlock(8, 16, temb_channels=None, groups=4, eps=1e-5, **kw),
        lambda **kw: Upsample(8, **kw),
        lambda **kw: Downsample(8, **kw),
    ],
    ids=["linear", "conv", "group_norm", "layer_norm", "resnet", "upsample", "downsample"],
)
def test_output_has_the_compute_dtype_whatever_the_input(layer):
    for dtype in (jnp.bfloat16, jnp.float32):
        for given in (jnp.bfloat16, jnp.float32):
            module = nnx.eval_shape(lambda dtype=dtype: layer(dtype=dtype, rngs=nnx.Rngs(0)))
            out = nnx.eval_shape(lambda m, x: m(x), module, jax.ShapeDtypeStruct((1, 4, 4, 8), given))
            # A shortcut in the input's dtype would promote; networks cast once, at their first convolution.
            if not (given == jnp.float32 and dtype == jnp.bfloat16 and isinstance(module, ResnetBlock)):
                assert out.dtype == dtype
            params = jax.tree.leaves(nnx.state(module))
            assert {p.dtype for p in params} == {jnp.dtype(jnp.float32)}


@pytest.mark.reference
@pytest.mark.parametrize(("out_channels", "temb"), [(16, 12), (8, 12), (8, None)])
def test_resnet_block_equals_diffusers(out_channels, temb):
    torch = pytest.importorskip("torch")
    from diffusers.models.resnet import ResnetBlock2D

    from tests import references

    theirs = references.randomise(
        ResnetBlock2D(in_channels=8, out_channels=out_channels, temb_channels=temb, groups=4, eps=1e-6)
    )
    ours, _ = build(lambda **kw: ResnetBlock(8, out_channels, temb_channels=temb, groups=4, eps=1e-6, **kw))
    x = RNG.normal(size=(2, 5, 6, 8)).astype(np.float32)
    embedding = None if temb is None else RNG.normal(size=(2, temb)).astype(np.float32)
    expected = theirs(references.nchw(x), None if embedding is None else torch.from_numpy(embedding))
    made = ours(jnp.asarray(x), None if embedding is None else jnp.asarray(embedding))
    assert narrow.relative_l2(made, references.nhwc(expected)) <= 1e-6


@pytest.mark.reference
@pytest.mark.parametrize("dim", [32, 320])
def test_timestep_embedding_equals_diffusers(dim):
    torch = pytest.importorskip("torch")
    from diffusers.models.embeddings import get_timestep_embedding

    timesteps = np.arange(1000)
    expected = get_timestep_embedding(torch.from_numpy(timesteps), dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    np.testing.assert_allclose(timestep_embedding(jnp.asarray(timesteps), dim), expected.numpy(), atol=2e-4)
