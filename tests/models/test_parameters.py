"""Modules as a definition and a flat mapping of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cassr_jax.models.layers import Linear
from cassr_jax.models.parameters import abstract, initialise, merge, nest, select, split
from cassr_jax.models.unet import UNet, UNetConfig


class Net(nnx.Module):
    """Eleven layers, so that a sort of the names as text would put 10 before 2."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([Linear(2, 2, dtype=jnp.float32, rngs=rngs) for _ in range(11)])
        self.out = Linear(2, 3, use_bias=False, zero=True, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


def test_split_names_every_parameter_by_its_path():
    _, params = split(Net(nnx.Rngs(0)))
    expected = {f"layers.{i}.{part}" for i in range(11) for part in ("kernel", "bias")} | {"out.kernel"}
    assert set(params) == expected
    assert all(isinstance(value, jax.Array) for value in params.values())


def test_merge_inverts_split():
    net, x = Net(nnx.Rngs(0)), jnp.ones((1, 2))
    graphdef, params = split(net)
    again = merge(graphdef, dict(reversed(params.items())))  # the order of the mapping does not matter
    np.testing.assert_array_equal(again(x), net(x))
    graphdef2, params2 = split(again)
    assert graphdef2 == graphdef
    assert hash(graphdef2) == hash(graphdef)
    assert params2.keys() == params.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(params2[name], value)


def test_merged_module_uses_the_given_arrays():
    graphdef, params = split(Net(nnx.Rngs(0)))
    params |= {f"layers.{i}.kernel": (i + 1) * jnp.eye(2) for i in range(11)}
    np.testing.assert_array_equal(merge(graphdef, params)(jnp.ones((1, 2))), jnp.full((1, 2), 39916800.0))  # 11!


def test_merge_works_inside_traced_functions():
    graphdef, params = split(Net(nnx.Rngs(0)))
    gradient = jax.jit(jax.grad(lambda params, x: merge(graphdef, params)(x).sum()))(params, jnp.ones((1, 2)))
    assert gradient.keys() == params.keys()
    np.testing.assert_allclose(gradient["layers.10.bias"], 1)
    np.testing.assert_array_equal(gradient["out.kernel"], 0)


def test_abstract_allocates_nothing():
    """The full-size U-Net would take 3.4 GB and seconds; its shapes take neither."""
    before = {id(array) for array in jax.live_arrays()}
    graphdef, shapes = abstract(lambda rngs: UNet(UNetConfig(), rngs=rngs))
    assert not [array for array in jax.live_arrays() if id(array) not in before and array.size > 1000]
    assert all(isinstance(shape, jax.ShapeDtypeStruct) for shape in shapes.values())
    assert shapes["conv_in.kernel"].shape == (3, 3, 4, 320)
    assert hash(graphdef) == hash(abstract(lambda rngs: UNet(UNetConfig(), rngs=rngs))[0])


def test_initialise_has_the_shapes_of_abstract_and_depends_on_the_key():
    graphdef, shapes = abstract(Net)
    graphdef2, params = initialise(Net, jax.random.key(0))
    assert graphdef == graphdef2
    assert {name: (p.shape, p.dtype) for name, p in params.items()} == {
        name: (s.shape, s.dtype) for name, s in shapes.items()
    }
    again, other = initialise(Net, jax.random.key(0))[1], initialise(Net, jax.random.key(1))[1]
    name = "layers.3.kernel"
    np.testing.assert_array_equal(params[name], again[name])
    assert np.abs(params[name] - other[name]).max() > 0
    assert np.abs(params[name] - params["layers.4.kernel"]).max() > 0


def test_select_takes_whole_path_parts_only():
    params = {"a.b.kernel": 1, "a.bc.kernel": 2, "a.b": 3, "xa.b.kernel": 4}
    assert select(params, "a.b") == {"kernel": 1}  # pyright: ignore[reportArgumentType]


@given(st.dictionaries(st.from_regex(r"[a-z]{1,3}(\.[a-z0-9]{1,3}){0,2}", fullmatch=True), st.integers(), max_size=5))
def test_select_inverts_nest(params):
    assert select(nest("up_blocks.0", params), "up_blocks.0") == params
    assert select(nest("up_blocks.0", params), "up_blocks") == nest("0", params)
    assert select(nest("up_blocks.0", params), "up_blocks.1") == {}


def test_merge_with_a_missing_parameter_fails():
    graphdef, params = split(Net(nnx.Rngs(0)))
    del params["layers.3.bias"]
    with pytest.raises(ValueError, match="expected 23 leaves, but got 22"):
        merge(graphdef, params)
