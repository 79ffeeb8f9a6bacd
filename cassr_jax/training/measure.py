"""Runs a planned training step where its devices are, on random data, and takes its time."""

import tempfile
import time
from itertools import count
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from cassr_jax.models.parameters import Shapes
from cassr_jax.sharding.chips import Chip
from cassr_jax.sharding.hlo import parse
from cassr_jax.sharding.measured import Measured, operations
from cassr_jax.training.state import TrainState

_TRACED = 3  # steps; a trace grows with them


def measure(
    step: jax.stages.Compiled,
    arguments: tuple[TrainState, Shapes, PyTree[jax.ShapeDtypeStruct]],
    mesh: Mesh,
    steps: int,
    chip: Chip | None,
) -> Measured:
    """The time of `steps` steps after a first one that is not counted, and the operations of a few more.

    Args:
        arguments: the shapes and places of the state, the frozen parameters and the batch.
        chip: None if its rates are not known.
    """
    state, frozen, batch = _random(arguments)
    state, metrics = step(state, frozen, batch)
    jax.block_until_ready(metrics)
    start = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, frozen, batch)
    jax.block_until_ready((state, metrics))
    seconds = (time.perf_counter() - start) / steps
    memory = [statistics.get("peak_bytes_in_use") for x in mesh.local_devices if (statistics := x.memory_stats())]
    traced = min(steps, _TRACED)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(traced):
                state, metrics = step(state, frozen, batch)
            jax.block_until_ready((state, metrics))
        found = operations(Path(folder), parse(step.as_text() or ""), mesh, traced, chip)
    return Measured(steps, seconds, max(filter(None, memory), default=None), found)


def _random(arguments: tuple[TrainState, Shapes, PyTree]) -> tuple[TrainState, PyTree, PyTree]:
    """Arrays of these shapes in their places: small parameters, an optimizer at its start, and noise for pictures."""
    numbers = count()

    def drawn(shape: jax.ShapeDtypeStruct) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(0), next(numbers))
        if jnp.issubdtype(shape.dtype, jnp.floating):
            return 0.02 * jax.random.normal(key, shape.shape, shape.dtype)
        return jax.random.bits(key, shape.shape, jnp.uint8).astype(shape.dtype)

    def make() -> tuple[TrainState, PyTree, PyTree]:
        state, frozen, batch = arguments
        params = jax.tree.map(drawn, state.params)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (state.step, state.opt_state))
        return TrainState(zeros[0], params, zeros[1], params), jax.tree.map(drawn, frozen), jax.tree.map(drawn, batch)

    return jax.jit(make, out_shardings=jax.tree.map(lambda x: x.sharding, arguments))()
