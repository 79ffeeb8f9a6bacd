"""One update, compiled once for a mesh of devices."""

from collections.abc import Mapping
from functools import partial
from typing import Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, Shaped

from cassr_jax.config import Remat, TrainConfig
from cassr_jax.data.resident import draw
from cassr_jax.errors import InputError
from cassr_jax.models.division import BLOCK_OUTPUT, divided
from cassr_jax.models.layers import NETWORK_INPUT
from cassr_jax.models.parameters import Params, Shapes
from cassr_jax.ranges import check
from cassr_jax.seeds import seed_key
from cassr_jax.sharding.placement import Placement
from cassr_jax.training.dividing import gathered
from cassr_jax.training.objectives import Objective
from cassr_jax.training.state import TrainState, layout, learning_rate
from cassr_jax.typing import Examples, Keys, Metrics, Scalar

Sums = tuple[Scalar, Metrics, Params]  # the loss, its metrics and its gradient, summed over parts of a batch


@runtime_checkable
class Step(Protocol):
    """The jitted step, which may be traced ahead of time."""

    def __call__(self, state: TrainState, frozen: Params, batch: Examples) -> tuple[TrainState, Metrics]: ...

    def trace(self, *shapes: object) -> jax.stages.Traced: ...

    def lower(self, *shapes: object) -> jax.stages.Lowered: ...


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    placement: Placement,
    state: TrainState,
    frozen: Params | Shapes,
) -> Step:
    """The jitted function `step(state, frozen, batch) -> (state, metrics)`; only the shapes of the arguments are read.

    The state is donated, and the frozen parameters are not differentiated. The gradient is the mean over
    `config.accumulate` parts of the batch, computed in turn, and equals that of the whole batch. With
    `config.data.resident`, the batch is a whole set on every device, from which the step draws its examples.

    All randomness follows from (seed, step, number of the example in the batch): a run that is continued draws the same
    numbers, on any number of devices and processes and in any number of parts. If the loss, its gradient or the norm of
    the updated parameters is not finite, the step is counted, all else stays unchanged, and the metric `skipped` is 1.
    """
    gather = partial(gathered, placement=placement, dtype=config.dtype)
    again = placement.strategy.gather == "again"
    # What is gathered within the part that is computed again is gathered again for the backward pass, block by block.
    whole_objective = (lambda params, batch, keys: objective(gather(params), batch, keys)) if again else objective
    loss_of = with_remat(whole_objective, config.remat)
    rate = learning_rate(config.optimizer, config.num_steps)
    parts, resident = config.accumulate, config.data.resident
    division = placement.division

    def gradient(params: Params, frozen: Params, batch: Examples, keys: Keys) -> tuple[Scalar, Metrics, Params]:
        value_and_grad = jax.value_and_grad(lambda p: loss_of(frozen | p, batch, keys), has_aux=True)
        with divided(division):
            (loss, metrics), gradients = value_and_grad(params)
        return loss, metrics, placement.sum(gradients)

    def step(state: TrainState, frozen: Params, batch: Examples) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(seed_key(config.seed), state.step)
        if resident:
            draw_key, key = jax.random.split(key)
            batch = draw(batch, draw_key, config.batch_size, config.data.crop_size)
        batch = placement.divide(batch)
        size = len(jax.tree.leaves(batch)[0])
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(size))

        params, whole = (state.params, frozen) if again else (gather(state.params), gather(frozen))
        if parts == 1:
            loss, metrics, gradients = gradient(params, whole, batch, placement.divide(keys))
        else:
            shapes = jax.eval_shape(gradient, params, whole, *_part(batch, keys, parts))

            def add(total: Sums, part: tuple[Examples, Keys]) -> tuple[Sums, None]:
                found = gradient(params, whole, *placement.divide(part))
                return jax.tree.map(jnp.add, total, found), None

            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            total, _ = jax.lax.scan(add, zeros, jax.tree.map(partial(_parted, parts=parts), (batch, keys)))
            loss, metrics, gradients = jax.tree.map(lambda x: x / parts, total)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        # The average starts as a running mean, so that early exports are not the initial weights.
        decay = jnp.minimum(config.optimizer.ema_decay, (1 + state.step) / (10 + state.step))
        ema = cast(Params, optax.incremental_update(params, state.ema, 1 - decay))
        norm = optax.tree.norm(gradients)
        # The barrier keeps the norm out of the update's own loops, which take XLA minutes to compile with it.
        finite = (
            jnp.isfinite(loss)
            & jnp.isfinite(norm)
            & jnp.isfinite(optax.tree.norm(jax.lax.optimization_barrier(params)))
        )
        new, old = (params, opt_state, ema), (state.params, state.opt_state, state.ema)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        metrics |= {
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": jnp.asarray(rate(state.step)),
            "skipped": 1.0 - finite,
        }
        return TrainState(state.step + 1, *kept), metrics

    states = layout(state, placement)
    return jax.jit(
        step,
        in_shardings=(states, placement.held(frozen), placement.whole if resident else placement.examples),
        out_shardings=(states, placement.whole),
        donate_argnums=0,
    )


def check_division(config: TrainConfig, placement: Placement) -> None:
    """Checks that the batch divides into equal parts for `accumulate`, the devices of the mesh and the processes.

    Raises:
        InputError: it does not, a field is outside its range, or processes have unequal shares of the mesh.
    """
    check(config)
    parts = placement.batch_shards * config.accumulate
    if config.batch_size % parts:
        raise InputError(
            f"batch_size is {config.batch_size}, expected a multiple of {parts}: {placement.batch_shards} parts of the "
            f"mesh {dict(placement.mesh.shape)} times accumulate {config.accumulate}"
        )
    started = round(config.loss.start_fraction * config.batch_size)
    if started % config.accumulate:
        raise InputError(
            f"loss.start_fraction {config.loss.start_fraction} of batch_size {config.batch_size} is {started}, "
            f"expected a multiple of accumulate, {config.accumulate}"
        )
    if placement.strategy.gather == "again" and config.remat == "none":
        raise InputError(
            "strategy.gather is again and remat is none, expected remat blocks or all: only what a backward pass "
            "computes again is gathered again"
        )
    of_processes = [device.process_index for device in placement.mesh.devices.flat]
    # Devices that are only compiled for are those of other hosts, and of no process that runs.
    processes = max(jax.process_count(), len({*of_processes}))
    if placement.batch_shards % processes:
        raise InputError(
            f"the mesh {dict(placement.mesh.shape)} divides a batch into {placement.batch_shards} parts, expected a "
            f"multiple of the {processes} processes"
        )
    held = [of_processes.count(process) for process in range(jax.process_count())]
    if min(held) < max(held):  # a mesh that is smaller than all devices takes the first ones
        raise InputError(
            f"the mesh {dict(placement.mesh.shape)} takes {' and '.join(map(str, held))} devices of processes 0 to "
            f"{len(held) - 1}, expected the same number of each process's devices; a size of -1 takes all devices"
        )


def _parted(x: Shaped[Array, "batch ..."], parts: int) -> Shaped[Array, "{parts} batch//{parts} ..."]:
    """(B, ...) -> (parts, B / parts, ...); every part has examples of every device, so none has to move."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)


def _part(
    batch: Examples, keys: Keys, parts: int
) -> tuple[Mapping[str, Shaped[Array, "batch//{parts} ..."]], Key[Array, " batch//{parts}"]]:
    return jax.tree.map(lambda x: x[: len(x) // parts], (batch, keys))


def with_remat(objective: Objective, remat: Remat) -> Objective:
    """The objective, whose forward pass keeps no more for the backward pass than `remat` allows."""
    if remat == "none":
        return objective
    policy = jax.checkpoint_policies.save_only_these_names(NETWORK_INPUT, *[BLOCK_OUTPUT] * (remat == "blocks"))
    return jax.checkpoint(objective, policy=policy)
