"""The compiled step: one trace, a donated state, frozen parameters untouched, randomness from (seed, step) alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.config import LossConfig, OptimizerConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.sharding.placement import Placement
from cassr_jax.training.objectives import Objective
from cassr_jax.training.state import make_optimizer, new_state
from cassr_jax.training.step import make_step
from tests.training.runs import ONE_DEVICE, assert_same, configure, example_keys, make_batch, objective_and_params

OPTIMIZER = OptimizerConfig(learning_rate=0.1, warmup_steps=1, ema_decay=0.8)


def line(params, batch, keys):
    """A loss whose gradient and noise are plain to see: mean((w x + f - y)^2), and a number from the keys."""
    error = params["w"] * batch["x"] + params["frozen"] - batch["y"]
    return jnp.mean(error**2), {"drawn": jnp.mean(jax.vmap(jax.random.normal)(keys))}


def toy(seed: int = 0, config: OptimizerConfig = OPTIMIZER, objective: Objective = line):
    optimizer, placement = make_optimizer(config, 100), Placement.of(ONE_DEVICE)
    state = new_state({"w": jnp.asarray([1.0, 2.0])}, optimizer, placement)
    run = TrainConfig("vae", DataConfig("unused"), optimizer=config, seed=seed)
    return make_step(objective, optimizer, run, placement, state, FROZEN), state


FROZEN = {"frozen": jnp.asarray([0.5, -0.5])}
BATCH = {"x": np.float32([1, 2]), "y": np.float32([3, -1])}


def test_metrics_are_of_the_parameters_before_the_update():
    step, state = toy()
    gradient = (np.array([1.0, 2.0]) * BATCH["x"] + FROZEN["frozen"] - BATCH["y"]) * BATCH["x"]
    _, metrics = step(state, FROZEN, BATCH)
    np.testing.assert_allclose(metrics["loss"], np.mean([1.5**2, 4.5**2]))
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient), rtol=1e-6)
    assert set(metrics) == {"loss", "gradient_norm", "learning_rate", "skipped", "drawn"}


def test_the_average_follows_the_weights():
    """decay min(0.8, (1 + n) / (10 + n)) of the weights after update n."""
    step, state = toy()
    expected = np.array([1.0, 2.0])
    for n in range(40):
        state, _ = step(state, FROZEN, BATCH)
        decay = min(0.8, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"])
        np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)
        assert int(state.step) == n + 1


def test_an_average_with_decay_zero_is_the_weights_themselves():
    step, state = toy(config=OptimizerConfig(learning_rate=0.1, warmup_steps=1, ema_decay=0.0))
    for _ in range(3):
        state, _ = step(state, FROZEN, BATCH)
        assert_same(state.ema, state.params)


def test_randomness_is_derived_from_the_seed_and_the_step():
    def draws(seed: int, first: int, count: int) -> list[float]:
        step, state = toy(seed)
        state = replace(state, step=jnp.asarray(first, jnp.int32))
        found = []
        for _ in range(count):
            np.random.rand()  # noqa: NPY002
            jax.random.normal(jax.random.key(1))
            state, metrics = step(state, FROZEN, BATCH)
            found.append(float(metrics["drawn"]))
        return found

    whole = draws(3, 0, 6)
    assert draws(3, 0, 6) == whole
    assert draws(3, 4, 2) == whole[4:]
    assert len({*whole, *draws(4, 0, 6)}) == 12


def test_each_example_draws_its_own_numbers():
    def spread(params, batch, keys):
        loss, _ = line(params, batch, keys)
        return loss, {"drawn": jnp.ptp(jax.vmap(jax.random.normal)(keys))}

    step, state = toy(objective=spread)
    _, metrics = step(state, FROZEN, BATCH)
    assert metrics["drawn"] > 0.01


def test_the_state_is_donated_and_nothing_else():
    step, state = toy()
    new, _ = step(state, FROZEN, BATCH)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema)))
    assert not FROZEN["frozen"].is_deleted()
    # In the compiled step itself: every byte of the state is written over, none is held twice.
    memory = step.lower(new, FROZEN, BATCH).compile().memory_analysis()  # pyright: ignore[reportFunctionMemberAccess]
    assert memory.alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(new))


@pytest.mark.parametrize(
    ("config", "batch"),
    [
        (OptimizerConfig(learning_rate=0.1, warmup_steps=1, b1=1.0), BATCH),  # 0 / 0 in the update alone
        (OPTIMIZER, BATCH | {"x": np.float32([1, np.nan])}),
        (OPTIMIZER, BATCH | {"x": np.float32([1, 9e18])}),  # loss and gradient are finite, the gradient's norm is not
    ],
    ids=["update", "loss", "gradient"],
)
def test_what_is_not_finite_leaves_all_but_the_count_as_it_was(config, batch):
    step, state = toy(config=config)
    state = replace(state, step=jnp.asarray(5, jnp.int32))  # past the warm-up, whose first rate is 0
    before = jax.tree.map(np.array, state)
    state, metrics = step(state, FROZEN, batch)
    assert metrics["skipped"] == 1
    assert int(state.step) == 6
    assert_same((state.params, state.opt_state, state.ema), (before.params, before.opt_state, before.ema))


# The U-Net of the second stage is frozen, and random here: its guides correct it only so far.
@pytest.mark.parametrize(
    ("stage", "rate", "left"), [pytest.param("base", 5e-3, 0.5, marks=pytest.mark.slow), ("cassr", 2e-2, 0.9)]
)
def test_one_compiled_step_learns_a_batch_by_heart(stage, rate, left, networks):
    config = configure(
        stage,
        networks,
        loss=LossConfig(perceptual_weight=0.0),
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=5),
    )
    objective, trainable, frozen = objective_and_params(config)
    traces = []

    def counted(params, batch, keys):
        traces.append(stage)
        # The same noise at the same times in every step, so that the loss falls by learning alone.
        return objective(params, batch, example_keys(jax.random.key(0)))

    before = jax.tree.map(np.array, (trainable, frozen))
    optimizer, placement = make_optimizer(config.optimizer, 60), Placement.of(config.strategy)
    state, frozen = new_state(trainable, optimizer, placement), placement.place(frozen)
    step = make_step(counted, optimizer, config, placement, state, frozen)
    batch, losses = make_batch(stage), []
    for _ in range(60):
        state, metrics = step(state, frozen, batch)
        losses.append(metrics["loss"])
    assert traces == [stage]
    assert_same(frozen, before[1])
    assert not frozen.keys() & state.params.keys()
    unchanged = [name for name, value in state.params.items() if np.array_equal(value, before[0][name])]
    assert unchanged == []
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < left * np.mean(losses[:5])
