"""Steps that are run to be measured."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

from cassr_jax.sharding.account import make_account
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.planned import Plan
from cassr_jax.sharding.report import table
from cassr_jax.sharding.strategies import STRATEGIES
from cassr_jax.training.measure import _random, measure
from cassr_jax.training.state import TrainState, abstract_state
from tests.sharding.plans import example

LOOPS = 3


def test_a_trace_holds_every_collective_as_often_as_it_runs():
    """On eight simulated devices: a step with a sum over the devices, thrice."""
    placement, optimizer = Placement.of(STRATEGIES["dp"]), optax.sgd(0.1)
    state = abstract_state({"a.kernel": jax.ShapeDtypeStruct((48, 32), "float32")}, optimizer, placement)
    batch = {"hr": jax.ShapeDtypeStruct((16, 48), "uint8", sharding=placement.examples)}
    arguments = (state, {}, batch)

    def step(state: TrainState, frozen: dict, batch: dict) -> tuple[TrainState, dict]:
        def once(_, params: dict) -> dict:
            gradients = jax.grad(lambda p: jnp.mean((batch["hr"] / 255 @ p["a.kernel"]) ** 2))(params)
            return optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, gradients))

        params = jax.lax.fori_loop(0, LOOPS, once, state.params)
        return replace(state, params=params, step=state.step + 1), {"loss": jnp.sum(params["a.kernel"])}

    layout = jax.tree.map(lambda x: x.sharding, state)
    jitted = jax.jit(step, out_shardings=(layout, placement.whole), donate_argnums=0)
    compiled = jitted.lower(*arguments).compile()
    account = make_account(compiled.as_text() or "", compiled.memory_analysis(), {}, placement.mesh, None)
    measured = measure(compiled, arguments, placement.mesh, 2, None)
    assert (measured.calls, measured.memory) == (2, None)
    assert measured.seconds > 0
    sent = {(row.kind, row.source): row.count for row in account.traffic}
    assert list(sent.values()) == [LOOPS]
    found = {(row.kind, row.source): row.count for row in measured.operations}
    assert {key: found[key] for key in sent} == sent
    assert all(row.predicted is None for row in measured.operations)

    plan = replace(example(), measured=measured)
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
    lines = table([plan]).splitlines()
    assert any(line.startswith("seconds, measured") for line in lines)
    assert any("operations of 2 steps" in line for line in lines)


def test_random_arguments_have_their_shapes_and_places():
    placement = Placement.of(STRATEGIES["fsdp"])
    state = abstract_state({"a.kernel": jax.ShapeDtypeStruct((64, 32), "float32")}, optax.adam(0.1), placement)
    batch = {"hr": jax.ShapeDtypeStruct((8, 4, 4, 3), "uint8", sharding=placement.examples)}
    made = _random((state, {}, batch))
    for array, shape in zip(jax.tree.leaves(made), jax.tree.leaves((state, {}, batch)), strict=True):
        assert (array.shape, array.dtype, array.sharding) == (shape.shape, shape.dtype, shape.sharding)
    assert 0.01 < float(made[0].params["a.kernel"].std()) < 0.03
    assert float(jnp.abs(made[0].opt_state[0].nu["a.kernel"]).max()) == 0  # of which a root is taken
    assert len(set(made[2]["hr"].ravel().tolist())) > 50
