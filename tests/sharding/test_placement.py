"""Rules, and what they say of a network's parameters."""

import json

import jax
import pytest
from jax.sharding import PartitionSpec as P

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import from_json, override, to_json
from cassr_jax.data.config import DataConfig
from cassr_jax.errors import InputError
from cassr_jax.models.unet import UNetConfig
from cassr_jax.networks import shapes_of
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.strategies import FSDP_TP, STRATEGIES, MeshConfig, Rule, Strategy


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
    spec = Placement.of(FSDP_TP).spec("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.kernel", (320, 320))
    assert spec == P("fsdp", "tensor")


def test_a_strategy_is_read_from_json_and_changed_from_the_command_line():
    config = TrainConfig("vae", DataConfig("unused"), strategy=FSDP_TP)
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
    ],
)
def test_what_is_no_strategy_is_refused(make):
    with pytest.raises(ValueError, match=r"mesh sizes|regular expression|spec names"):
        make()
