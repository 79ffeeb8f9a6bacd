"""Rules, and what they say of a network's parameters."""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import from_json, override, to_json
from cassr_jax.data.config import DataConfig
from cassr_jax.errors import InputError
from cassr_jax.models.attention import GEGLU
from cassr_jax.models.layers import Conv, Downsample, Linear
from cassr_jax.models.parameters import merge, split
from cassr_jax.models.unet import UNetConfig
from cassr_jax.networks import shapes_of
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.strategies import AXES, STRATEGIES, MeshConfig, Rule, Strategy


def test_the_first_rule_that_is_found_and_fits_decides():
    rules = (Rule(r"a.*kernel$", ("fsdp", None)), Rule(r"kernel$", (None, "fsdp")), Rule(r"bias$", ("tensor",)))
    placement = Placement.of(Strategy(MeshConfig(data=1, fsdp=4, tensor=2), rules))
    assert placement.spec("a.kernel", (3, 3, 8, 6)) == P(None, None, "fsdp", None)
    assert placement.spec("a.kernel", (3, 3, 6, 8)) == P(None, None, None, "fsdp")
    assert placement.spec("a.kernel", (3, 3, 6, 6)) == P()
    assert placement.spec("b.bias", (6,)) == P("tensor")
    assert placement.spec("b.scale", (8,)) == P()
    assert placement.spec("kernel", (8,)) == P()


def test_an_optimizers_state_lies_where_its_parameter_does():
    placement = Placement.of(STRATEGIES["fsdp"])
    shape = jax.ShapeDtypeStruct((8, 16), "float32")
    state = ({"count": jax.ShapeDtypeStruct((), "int32")}, {"mu": {"a.kernel": shape}}, {"a.kernel": shape})
    count, mu, kernel = placement.stored(state)
    assert mu["mu"]["a.kernel"].spec == kernel["a.kernel"].spec == placement.spec("a.kernel", (8, 16)) != P()
    assert count["count"].spec == P()
    assert placement.used({"a.kernel": shape})["a.kernel"].is_fully_replicated


def test_stable_diffusions_unet_is_divided_nearly_whole():
    shapes = shapes_of("unet", UNetConfig())
    total = sum(shape.size for shape in shapes.values())
    for name, least in (("fsdp", 0.99), ("fsdp_tp", 0.99)):
        placement = Placement.of(STRATEGIES[name])
        shardings = placement.stored(shapes)
        whole = sum(s.size for n, s in shapes.items() if shardings[n].is_fully_replicated)
        assert 1 - whole / total > least
    spec = Placement.of(STRATEGIES["fsdp_tp"]).spec(
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.kernel", (320, 320)
    )
    assert spec == P("fsdp", "tensor")


def test_a_strategy_is_read_from_json_and_changed_from_the_command_line():
    config = TrainConfig("vae", DataConfig("unused"), strategy=STRATEGIES["fsdp_tp"])
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config))), "it") == config
    assert override(config, ["strategy.mesh.tensor=4"]).strategy.mesh.tensor == 4
    with pytest.raises(InputError, match=r"strategy\.mesh\.data: mesh sizes"):
        override(config, ["strategy.mesh.data=0"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: MeshConfig(data=-1, fsdp=-1),
        lambda: MeshConfig(tensor=0),
        lambda: Rule("(", ()),
        lambda: Rule("kernel", ("model",)),
        lambda: Rule("kernel", ("data+fsdp", "fsdp")),
    ],
)
def test_what_is_no_strategy_is_refused(make):
    with pytest.raises(ValueError, match=r"mesh sizes|regular expression|spec names|every axis at most once"):
        make()


def test_rules_that_divide_two_dimensions_leave_little_whole_on_256_chips():
    shapes = shapes_of("unet", UNetConfig())
    total = sum(shape.size for shape in shapes.values())

    def largest_share(name: str, **sizes: int) -> float:
        strategy = STRATEGIES[name]
        mesh = AbstractMesh((sizes["data"], sizes["fsdp"], 1, 1), AXES)
        stored = Placement(mesh, strategy).stored(shapes)  # pyright: ignore[reportArgumentType]
        return sum(math.prod(stored[n].shard_shape(x.shape)) for n, x in shapes.items()) / (total / 256)

    assert largest_share("fsdp", data=1, fsdp=256) > 5  # few dimensions are multiples of 256
    assert largest_share("hybrid", data=16, fsdp=16) > 16
    assert largest_share("fsdp_2d", data=16, fsdp=16) < 1.2


def test_rules_for_activations_say_where_values_lie():
    rules = (
        Rule(r"encoder\.", ("data+tensor", None, None)),
        Rule(r"\.hidden$", ("tensor",)),
        Rule(r"\.rows$", ("spatial", None)),
    )
    placement = Placement.of(Strategy(MeshConfig(data=2, spatial=2, tensor=2), activations=rules))

    def spec(name: str, *shape: int) -> P | None:
        found = placement.activation(name, shape)
        return None if found is None else found.spec

    batch = ("data", "fsdp")
    assert spec("vae.encoder.input", 4, 3, 3) == P(("data", "tensor"), None, None)
    assert spec("a.hidden", 4, 5, 6) == P(batch, P.UNCONSTRAINED, "tensor")
    assert spec("a.rows", 4, 6, 3) == P(batch, "spatial", None)
    assert spec("a.rows", 4, 5, 3) is None  # it does not divide
    twice = Placement.of(Strategy(MeshConfig(data=1, fsdp=2), activations=(Rule(r"hidden$", ("fsdp",)),)))
    with pytest.raises(
        InputError, match=r"'hidden\$' names data or fsdp for a.hidden, expected them only in a spec of all"
    ):
        twice.activation("a.hidden", (4, 5, 6))
    assert spec("a.hidden", 3, 6) is None  # nor do the examples
    assert spec("a.other", 4, 6) is None


@pytest.mark.parametrize("kind", ["3x3", "stride 2", "asymmetric", "1x1", "linear", "geglu"])
@pytest.mark.parametrize("axis", ["tensor", "spatial"])
@pytest.mark.parametrize("divided_as", [("fsdp", "tensor"), ("tensor", "fsdp"), (None, "fsdp+tensor")])
def test_a_divided_layer_gives_the_numbers_of_a_whole_one(kind, axis, divided_as):
    """Forward and backward; in some versions of XLA strided or divided convolutions do not (jax #16894)."""
    kwargs = {"dtype": np.float32, "rngs": nnx.Rngs(0)}
    make = {
        "3x3": lambda: Conv(8, 16, 3, **kwargs),
        "stride 2": lambda: Conv(8, 16, 3, stride=2, **kwargs),
        "asymmetric": lambda: Downsample(8, asymmetric=True, **kwargs),
        "1x1": lambda: Conv(8, 16, 1, **kwargs),
        "linear": lambda: Linear(8, 16, **kwargs),
        "geglu": lambda: GEGLU(8, 8, **kwargs),
    }
    graphdef, params = split(make[kind]())
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in params.items()}
    x = rng.normal(size=(4, 8, 8, 8)).astype(np.float32)

    def total(params, x):
        return (merge(graphdef, params)(x) ** 2).sum()

    gradients = jax.value_and_grad(total, argnums=(0, 1))
    mesh = MeshConfig(data=1, fsdp=4, **{axis: 2})
    placement = Placement.of(Strategy(mesh, (Rule(r"kernel$", divided_as),)))
    lying = (placement.used(params), NamedSharding(placement.mesh, P(("data", "fsdp"), "spatial")))
    found = jax.jit(gradients, in_shardings=lying, out_shardings=(None, (placement.stored(params), lying[1])))(
        params, x
    )
    for mine, whole in zip(jax.tree.leaves(found), jax.tree.leaves(gradients(params, x)), strict=True):
        np.testing.assert_allclose(mine, whole, rtol=1e-4, atol=1e-4)
