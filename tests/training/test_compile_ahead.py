"""A step compiled for devices that are not here."""

import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

import train
from cassr_jax.data.config import DataConfig
from cassr_jax.errors import InputError
from cassr_jax.sharding import plan as command
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.mesh import make_mesh
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.planned import Plan
from cassr_jax.sharding.report import table
from cassr_jax.sharding.strategies import STRATEGIES, MeshConfig
from cassr_jax.sharding.topologies import topology_devices
from cassr_jax.training.compile_ahead import _gradients, compile_for, lower, objective_of
from cassr_jax.training.state import make_optimizer, new_state
from cassr_jax.training.step import make_step
from tests.golden.make_layout import PATH as LAYOUT
from tests.golden.make_layout import layouts
from tests.training.runs import configure, make_batch, objective_and_params


def test_shapes_alone_lower_to_the_step_that_trains(networks):
    config = replace(configure("cassr", networks, strategy=STRATEGIES["fsdp"]), batch_size=8)
    placement = Placement.of(config.strategy)
    planned = lower(config, placement)
    lowered, held = planned.step, planned.held
    objective, trainable, frozen = objective_and_params(config)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state, placed = new_state(trainable, optimizer, placement), placement.place(frozen)
    step = make_step(objective, optimizer, config, placement, state, placed)
    found = step.lower(state, placed, placement.place_batch(make_batch("cassr", 8)))
    assert lowered.cost_analysis()["flops"] == found.cost_analysis()["flops"]
    assert lowered.in_tree == found.in_tree
    assert [x.shape for x in jax.tree.leaves(lowered.args_info)] == [x.shape for x in jax.tree.leaves(found.args_info)]
    assert held["trained parameters"].keys() == trainable.keys()
    assert planned.gradients == sum(4 * x.size for x in trainable.values())  # whole in all eight places
    assert {name: np.dtype(x.dtype) for name, x in held["frozen parameters"].items()} == dict.fromkeys(
        frozen, np.dtype(np.float32)
    )


def test_gradients_of_parts_add_up_as_they_are_summed():
    placement = Placement.of(STRATEGIES["fsdp"])
    params = {"a.kernel": jax.ShapeDtypeStruct((64, 16), "float32"), "a.bias": jax.ShapeDtypeStruct((3,), "float32")}
    assert _gradients(params, placement, 1) == 4 * (64 * 16 + 3)
    assert _gradients(params, placement, 2) == 4 * (64 * 16 + 3) + 4 * (64 * 16 // 8 + 3)
    assert _gradients(params, Placement.of(replace(STRATEGIES["fsdp"], zero=1)), 2) == 2 * 4 * (64 * 16 + 3)


def test_parameters_and_values_lie_where_they_did(networks):
    """If this fails, `python -m tests.golden.make_layout` shows what was moved."""
    assert layouts(networks) == LAYOUT.read_text()


def test_a_slice_that_does_not_exist_is_refused(capsys):
    with pytest.raises(InputError, match="v5e:3x5: no TPU slice that can be compiled for"):
        topology_devices("v5e:3x5")
    assert train.main(["--config", "configs/smoke.py", "--compile-for", "v5e:3x5"]) == 2
    assert capsys.readouterr().err.startswith("train.py: v5e:3x5: no TPU slice")


@pytest.mark.parametrize(
    ("on", "devices", "hosts"), [("v4:2x2x1", 4, 1), ("tpu7x:2x2x1", 8, 1), ("v5e:2x4", 8, 1), ("v5e:4x4", 16, 4)]
)
def test_a_slice_has_the_devices_that_jax_has_there(on: str, devices: int, hosts: int):
    """Two of TPU7x and one of v4 for a chip of two cores; eight chips of v5e are on one host."""
    try:
        found = topology_devices(on)
    except InputError as error:
        pytest.skip(str(error))
    assert (len(found), len({device.process_index for device in found})) == (devices, hosts)
    assert make_mesh(MeshConfig(data=-1), found).size == devices


@pytest.mark.slow
def test_steps_run_where_the_devices_are(networks):
    """On simulated devices: the trace holds every collective as often as the program has it."""
    config = replace(configure("scedit", networks, strategy=STRATEGIES["dp"]), batch_size=8)
    plan = compile_for(config, "cpu:8", "dp", "quick", 2)
    measured = plan.measured
    assert measured is not None
    assert measured.calls == 2
    assert measured.seconds > 0
    assert measured.memory is None  # a processor does not tell
    found = {(row.kind, row.source): row.count for row in measured.operations}
    sent = {(row.kind, row.source): row.count for row in plan.account.traffic}
    assert sent
    assert {key: found[key] for key in sent} == sent
    assert all(row.predicted is None for row in measured.operations)
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
    lines = table([plan]).splitlines()
    assert any(line.startswith("seconds, measured") for line in lines)
    assert any("operations of 2 steps" in line for line in lines)


def test_devices_that_are_not_here_are_not_measured(capsys):
    given = ["--config", "configs/smoke.py", "--on", "h200:8", "--measure", "2"]
    assert command.main(given) == 2
    assert "h200:8: found 8 x cpu here, expected these very devices" in capsys.readouterr().err


# KiB that a device sends or receives in a narrow step. A change that adds to them has to say why.
BUDGETS = {
    ("v5e:2x4", "dp"): 249,
    ("v5e:2x4", "fsdp"): 567,
    ("v5e:2x4", "spatial"): 815,
    ("v5e:2x4", "fsdp_tp"): 493,
    ("h200:8", "fsdp"): 590,
}


@pytest.mark.parametrize(("on", "name"), BUDGETS)
def test_a_narrow_step_compiles_for(on: str, name: str, networks):
    try:
        topology_devices(on)
    except InputError as error:
        pytest.skip(str(error))
    config = replace(configure("base", networks, strategy=STRATEGIES[name]), batch_size=8)
    plan = compile_for(config, on, name, "quick")
    assert (plan.title, plan.stage, plan.examples) == (f"{on} {name}", "base", 8)
    found = plan.account
    assert found.fits
    assert {"all-reduce"} | ({"all-gather"} if name != "dp" else set()) <= {row.kind for row in found.traffic}
    assert all(row.known and row.axes is not None for row in found.traffic)
    assert plan.useful_flops <= 1.002 * found.flops  # the smallest products become sums, which do not count
    assert 0 < plan.gradients < found.temporary
    assert plan.utilisation is not None
    assert 0 < plan.utilisation < 1
    sent = sum(row.nbytes for row in found.traffic) / 2**10
    assert 0.9 * BUDGETS[on, name] <= sent <= 1.02 * BUDGETS[on, name]


def test_a_narrow_step_for_two_slices_sends_only_gradients_between_them(networks):
    """`hybrid` gathers parameters within a slice, and only sums gradients over both."""
    try:
        topology_devices("v5e:2x4@2")
    except InputError as error:
        pytest.skip(str(error))
    config = replace(configure("base", networks, strategy=STRATEGIES["hybrid"]), batch_size=16)
    plan = compile_for(config, "v5e:2x4@2", "hybrid", "quick")
    assert plan.account.mesh == {"data": 2, "fsdp": 8, "spatial": 1, "tensor": 1}
    assert {row.axes for row in plan.account.traffic} == {("fsdp",), ("slices",)}
    between = [row for row in plan.account.traffic if row.axes == ("slices",)]
    assert {row.kind for row in between} == {"all-reduce"}
    _, trained, _ = objective_of(config)
    sent, whole = sum(row.nbytes for row in between), sum(4 * math.prod(x.shape) for x in trained.values())
    assert 0.1 * whole <= sent <= 1.1 * whole  # XLA scatters only larger ones within a slice before
    assert sum(row.seconds for row in between) == pytest.approx(sent / CHIPS["v5e"].network)  # 2 (n - 1) / n for n = 2


def test_a_step_for_gpus_has_flash_attention_and_holds_no_scores(networks):
    try:
        devices = topology_devices("h200:8")
    except InputError as error:
        pytest.skip(str(error))
    data = DataConfig("unused", crop_size=128)  # 16x16 tokens in the transformers: the fewest that flash is used for
    config = configure("cassr", networks, data=data, strategy=STRATEGIES["fsdp"], dtype="bfloat16", batch_size=8)
    program = lower(config, Placement.of(config.strategy, devices)).step.compile().as_text()
    assert program.count('"__cudnn$fmha') > program.count('"__cudnn$fmhaSoftmaxBackward') > 0
    assert "256,256]" not in program
