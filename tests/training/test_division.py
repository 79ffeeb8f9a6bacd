"""A step divided among eight simulated devices: the same numbers as on one, an eighth of the work, the state once."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cassr_jax.config import OptimizerConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.data.resident import draw
from cassr_jax.errors import InputError
from cassr_jax.models.attention import Transformer2D
from cassr_jax.models.layers import Conv, ResnetBlock
from cassr_jax.models.parameters import initialise, merge
from cassr_jax.seeds import seed_key
from cassr_jax.sharding.account import make_account
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.strategies import STRATEGIES, MeshConfig, Strategy
from cassr_jax.training import dividing
from cassr_jax.training.compile_ahead import lower
from cassr_jax.training.state import make_optimizer, new_state
from cassr_jax.training.step import check_division, make_step
from tests.training.runs import ONE_DEVICE, assert_same, configure, make_batch, objective_and_params

# Fixed work, as the optimizer's under `dp`, must be little beside the examples': a few per cent at this size.
BATCH = 128
STEPS = 3
SMALLER = {name: replace(STRATEGIES[name], mesh=MeshConfig(fsdp=4)) for name in ("hybrid", "fsdp_2d")}  # of two groups
DIVISIONS = STRATEGIES | SMALLER
# More than the usual 5 % is repeated: small layers under `fsdp_tp`, and the edges of convolutions under `spatial`.
SHARES = {"fsdp_tp": 1.2, "spatial": 1.08}


class Run(NamedTuple):
    losses: list[float]
    params: dict[str, np.ndarray]
    flops: float
    aliased: int
    state_bytes: int  # on one device
    collectives: dict[str, int]


class Net(nnx.Module):
    """One of each kind of layer that the rules speak of; compiles in a fraction of a U-Net's time."""

    def __init__(self, rngs: nnx.Rngs):
        kwargs: dict[str, Any] = {"dtype": jnp.float32, "rngs": rngs}
        self.conv_in = Conv(4, 8, 3, **kwargs)
        self.resnets = nnx.List([ResnetBlock(8, 16, temb_channels=8, groups=4, eps=1e-5, **kwargs)])
        self.attentions = nnx.List([Transformer2D(16, 8, num_heads=2, groups=4, **kwargs)])
        self.conv_out = Conv(16, 4, 3, **kwargs)

    def __call__(self, x: jax.Array, temb: jax.Array, text: jax.Array) -> jax.Array:
        h = self.resnets[0](self.conv_in(x), temb)
        return self.conv_out(self.attentions[0](h, self.attentions[0].key_value(text)))


def make_run(objective, trainable, frozen, config: TrainConfig, batch: dict[str, np.ndarray]):
    """A function of strategy and number of parts: what three updates give, each division run once."""
    made: dict[Any, Run] = {}

    def run(strategy: Strategy, accumulate: int = 1) -> Run:
        if (strategy, accumulate) in made:
            return made[strategy, accumulate]
        placement, optimizer = Placement.of(strategy), make_optimizer(config.optimizer, 100)
        state, placed = new_state(trainable, optimizer, placement), placement.place(frozen)
        changed = replace(config, batch_size=len(next(iter(batch.values()))), accumulate=accumulate)
        check_division(changed, placement)
        step, examples = (
            make_step(objective, optimizer, changed, placement, state, placed),
            placement.place_batch(batch),
        )
        compiled = step.lower(state, placed, examples).compile()
        losses = []
        for _ in range(STEPS):
            state, metrics = compiled(state, placed, examples)
            losses.append(float(metrics["loss"]))
        made[strategy, accumulate] = Run(
            losses,
            jax.tree.map(np.asarray, state.params),
            compiled.cost_analysis()["flops"],
            compiled.memory_analysis().alias_size_in_bytes,
            sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)),
            collectives(compiled, placement),
        )
        return made[strategy, accumulate]

    return run


def collectives(compiled: jax.stages.Compiled, placement: Placement) -> dict[str, int]:
    """How often each kind of collective runs in a step."""
    text = compiled.as_text()
    assert text is not None
    found = Counter()
    for row in make_account(text, compiled.memory_analysis(), {}, placement.mesh, None).traffic:
        found[row.kind] += row.count
    return dict(found)


def small_problem():
    """An objective with noise from each example's key, its parameters, a configuration and a batch."""
    graphdef, params = initialise(Net, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {name: value + 0.1 * rng.normal(size=value.shape).astype(np.float32) for name, value in params.items()}

    def loss(params, batch, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, batch["x"].shape[1:]))(keys)
        temb, text = batch["x"][:, 0, :2].reshape(-1, 8), batch["x"][:, 1, :4].reshape(-1, 2, 8)
        return jnp.mean((merge(graphdef, params)(batch["x"] + noise, temb, text) - noise) ** 2), {}

    optimizer = OptimizerConfig(learning_rate=1e-4, warmup_steps=1)
    config = TrainConfig("base", DataConfig("unused"), optimizer=optimizer)
    return loss, params, config, {"x": rng.normal(size=(BATCH, 8, 8, 4)).astype(np.float32)}


@pytest.fixture(scope="module")
def run():
    objective, params, config, batch = small_problem()
    return make_run(objective, params, {}, config, batch)


def assert_close(found: Run, expected: Run) -> None:
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    for name, value in expected.params.items():
        error = np.linalg.norm(found.params[name] - value) / np.linalg.norm(value)
        assert error < 1e-5, name


@pytest.mark.parametrize("name", DIVISIONS)
def test_eight_devices_do_what_one_does_with_an_eighth_of_the_work_each(name, run):
    found, expected = run(DIVISIONS[name]), run(ONE_DEVICE)
    assert_close(found, expected)
    assert expected.losses[2] != expected.losses[1]
    assert found.flops <= SHARES.get(name, 1.05) * expected.flops / 8
    if name == "dp":
        assert found.collectives == {"all-reduce": 1}
    assert found.aliased == found.state_bytes  # every byte of the state is written over, none is held twice


@pytest.mark.parametrize("name", ["dp", "fsdp", "spatial", "fsdp_tp"])
def test_parts_of_a_batch_average_to_the_whole(name, run):
    assert_close(run(STRATEGIES[name], accumulate=2), run(ONE_DEVICE))


def test_stored_parameters_are_divided(run):
    one = run(ONE_DEVICE).state_bytes
    assert run(STRATEGIES["dp"]).state_bytes == one
    assert run(STRATEGIES["fsdp"]).state_bytes < one / 4
    assert run(STRATEGIES["fsdp_tp"]).state_bytes < one / 4
    assert run(DIVISIONS["fsdp_2d"]).state_bytes < run(DIVISIONS["hybrid"]).state_bytes < one / 3


def test_what_zero_divides(run):
    """The moments and the average, three of four parts of a state; from 2 on gradients, with 3 parameters too."""
    one, third = run(ONE_DEVICE).state_bytes, run(STRATEGIES["fsdp"]).state_bytes
    for level in ("zero1", "zero2"):
        assert abs(run(STRATEGIES[level]).state_bytes - (one + 3 * third) / 4) < 0.01 * one
    # Gradients are summed whole, or each device's part alone.
    parts = sum(run(STRATEGIES["zero2"]).collectives[kind] for kind in ("all-reduce", "all-gather"))
    assert sum(run(STRATEGIES["zero1"]).collectives.values()) < parts


def test_weights_gathered_again_change_no_number():
    objective, params, config, batch = small_problem()
    fsdp = replace(STRATEGIES["fsdp"], gather="again")
    run = make_run(objective, params, {}, replace(config, remat="blocks"), batch)
    once, again = run(STRATEGIES["fsdp"]), run(fsdp)
    assert_close(again, once)
    assert again.collectives["all-gather"] > 1.5 * once.collectives["all-gather"]
    with pytest.raises(InputError, match="gather is again and remat is none, expected remat blocks or all"):
        check_division(replace(config, batch_size=BATCH), Placement.of(fsdp))


# What each of eight devices computes of narrow networks, in eighths of what one does. XLA counts the zeros beyond a
# picture's edge where its rows are divided; under `fsdp_tp` small layers, here a large part, are computed twice.
SHARES_OF_NETWORKS = {
    "base": {"spatial": 1.13, "fsdp_tp": 1.20},
    "cassr": {"spatial": 1.08, "fsdp_tp": 1.53},
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "cassr"])
def test_whole_networks_are_divided_as_well(stage, networks):
    config = configure(stage, networks, optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=1))
    batch = make_batch(stage, 64)
    if stage == "base":  # without the autoencoder, the optimizer's share of the work is larger
        batch = {"latents": np.random.default_rng(0).normal(size=(BATCH, 8, 8, 4)).astype(np.float32)}
    run = make_run(*objective_and_params(config), config, batch)
    for name, strategy in STRATEGIES.items():
        found, expected = run(strategy), run(ONE_DEVICE)
        print(f"{stage}, {name}: {found.flops / 1e6:.1f} MFLOP on each of eight, {expected.flops / 1e6:.1f} on one")
        assert_close(found, expected)
        assert found.flops <= SHARES_OF_NETWORKS[stage].get(name, 1.05) * expected.flops / 8
        assert_close(run(strategy, 2), expected)
    assert run(STRATEGIES["dp"]).collectives == {"all-reduce": 1}  # of the gradients: no example has to move


@pytest.mark.slow
def test_what_travels_in_16_bits_changes_no_value(networks, monkeypatch):
    """The networks round a kernel where they use it; rounded before it is sent, it is the same."""
    config = configure("base", networks, dtype="bfloat16", optimizer=OptimizerConfig(warmup_steps=1))
    objective, trainable, frozen = objective_and_params(config)
    batch = {"latents": np.random.default_rng(0).normal(size=(8, 8, 8, 4)).astype(np.float32)}
    config = replace(config, batch_size=8)
    narrow = make_run(objective, trainable, frozen, config, batch)(STRATEGIES["fsdp"])
    monkeypatch.setattr(dividing, "KERNEL", "no parameter is called so")
    wide = make_run(objective, trainable, frozen, config, batch)(STRATEGIES["fsdp"])
    assert narrow.losses == wide.losses
    for name, value in wide.params.items():
        np.testing.assert_array_equal(narrow.params[name], value)


def test_kernels_travel_in_the_type_of_the_computation(networks):
    """In the program before it is divided: each divided kernel is first rounded, and then gathered."""
    config = replace(configure("base", networks, dtype="bfloat16", strategy=STRATEGIES["fsdp"]), batch_size=8)
    placement = Placement.of(config.strategy)
    lowered = lower(config, placement)
    held = lowered.held["trained parameters"] | lowered.held["frozen parameters"]
    unused = ("vae.decoder.", "vae.post_quant_conv.")
    kernels = [x for name, x in held.items() if name.endswith(".kernel") and not name.startswith(unused)]
    divided = sum(any(x.sharding.spec) for x in kernels)
    places = re.findall(r"sharding_constraint \S+ <@mesh, (\[.*?\])> : tensor<[\dx]*xbf16>", lowered.step.as_text())
    assert sum("fsdp" in place for place in places) == divided > 10
    assert sum("fsdp" not in place for place in places) >= divided


def test_a_step_jitted_once_is_traced_once():
    traces = []

    def loss(params, batch, keys):
        traces.append(1)
        drawn = jnp.mean(jax.vmap(jax.random.normal)(keys))
        return jnp.mean((params["w.kernel"] * batch["x"][:, None]) ** 2) + 0 * drawn, {}

    placement, optimizer = Placement.of(STRATEGIES["fsdp"]), make_optimizer(OptimizerConfig(), 30)
    state = new_state({"w.kernel": jnp.ones((8, 8))}, optimizer, placement)
    config = TrainConfig("vae", DataConfig("unused"), batch_size=8)
    step = make_step(loss, optimizer, config, placement, state, {})
    for i in range(20):
        state, metrics = step(state, {}, placement.place_batch({"x": np.full(8, i, np.float32)}))
        jax.block_until_ready(metrics)
    assert len(traces) == 1
    assert state.params["w.kernel"].sharding.spec == placement.spec("w.kernel", (8, 8))
    assert not state.params["w.kernel"].sharding.is_fully_replicated


@pytest.mark.parametrize("strategy", [ONE_DEVICE, STRATEGIES["dp"]])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_draws_the_same_of_a_set_on_the_device(strategy, accumulate):
    rng = np.random.default_rng(0)
    pool = {"hr": rng.integers(0, 256, (5, 8, 8, 3), np.uint8)}
    data = DataConfig("unused", crop_size=4, resident=True)
    config = TrainConfig("vae", data, batch_size=16, accumulate=accumulate, seed=3)

    def loss(params, batch, keys):
        return params["w"] * jnp.mean(batch["hr"] / 255), {"drawn": jnp.mean(jax.vmap(jax.random.uniform)(keys))}

    placement, optimizer = Placement.of(strategy), make_optimizer(config.optimizer, 10)
    state = new_state({"w": jnp.ones(())}, optimizer, placement)
    step = make_step(loss, optimizer, config, placement, state, {})
    _, metrics = step(state, {}, placement.place_whole(pool))
    draw_key, key = jax.random.split(jax.random.fold_in(seed_key(3), 0))
    expected = np.mean(np.asarray(draw(pool, draw_key, 16, 4)["hr"]) / 255)
    drawn = np.mean([jax.random.uniform(jax.random.fold_in(key, i)) for i in range(16)])
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["drawn"], drawn, rtol=1e-6)


@pytest.mark.parametrize("remat", ["blocks", "all"])
def test_what_is_computed_again_changes_no_gradient(remat):
    objective, params, config, batch = small_problem()
    placement, optimizer = Placement.of(ONE_DEVICE), make_optimizer(config.optimizer, 100)
    found = {}
    for kind in ("none", remat):
        state = new_state(params, optimizer, placement)
        lowered = make_step(objective, optimizer, replace(config, remat=kind), placement, state, {}).lower(
            state, {}, batch
        )
        flops = lowered.cost_analysis()["flops"]
        _, metrics = lowered.compile()(state, {}, batch)
        found[kind] = metrics["gradient_norm"], flops
    (before, plain), (after, again) = found["none"], found[remat]
    np.testing.assert_allclose(after, before, rtol=1e-5)
    assert again > 1.1 * plain  # else nothing is computed again, and nothing saved


def test_frozen_parameters_have_no_state_and_stay_to_the_bit_for_a_hundred_steps():
    frozen = {"unet.w": np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)}

    def loss(params, batch, keys):
        return jnp.mean((params["unet.w"] @ params["net.w"] - batch["x"].mean()) ** 2), {}

    placement, optimizer = Placement.of(STRATEGIES["dp"]), make_optimizer(OptimizerConfig(learning_rate=1e-2), 100)
    state, placed = new_state({"net.w": jnp.ones(40)}, optimizer, placement), placement.place(frozen)
    trained = 40 * 4
    # Weight, average and Adam's two moments of the trained parameter, and three counters.
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) <= 4 * trained + 12
    config = TrainConfig("vae", DataConfig("unused"), batch_size=8)
    step = make_step(loss, optimizer, config, placement, state, placed)
    before = state.params["net.w"].copy()
    batch = placement.place_batch({"x": np.ones(8, np.float32)})
    for _ in range(100):
        state, metrics = step(state, placed, batch)
        jax.block_until_ready(metrics)  # simulated devices share too few threads for many steps at once
    assert_same(placed, frozen)
    assert (np.asarray(state.params["net.w"]) != np.asarray(before)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size is 12, expected a multiple of 8"),
        ({"batch_size": 8, "accumulate": 2}, "batch_size is 8, expected a multiple of 16"),
        ({"accumulate": 0}, "accumulate is 0, expected a whole number of at least 1"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(changes, message):
    config = replace(TrainConfig("vae", DataConfig("unused"), batch_size=16), **changes)
    with pytest.raises(InputError, match=message):
        check_division(config, Placement.of(STRATEGIES["dp"]))


def test_a_mesh_of_the_first_processs_devices_alone_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    config = TrainConfig("vae", DataConfig("unused"), batch_size=16)
    message = "takes 8 and 0 devices of processes 0 to 1, expected the same number of each process's devices; a size of"
    with pytest.raises(InputError, match=message):
        check_division(config, Placement.of(STRATEGIES["dp"]))


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    for mesh in (MeshConfig(tensor=3), MeshConfig(data=16)):
        with pytest.raises(InputError, match="does not divide the 8 devices found"):
            Placement.of(Strategy(mesh))
