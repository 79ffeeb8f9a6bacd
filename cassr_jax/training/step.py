"""One update, compiled once."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from cassr_jax.config import OptimizerConfig
from cassr_jax.models.parameters import Params
from cassr_jax.training.objectives import Batch, Metrics, Objective
from cassr_jax.training.state import TrainState

Step = Any  # a jitted (TrainState, frozen Params, Batch) -> (TrainState, Metrics)


def make_step(
    objective: Objective, optimizer: optax.GradientTransformation, config: OptimizerConfig, seed: int
) -> Step:
    """`step(state, frozen, batch)`: the state is donated, the frozen parameters are not differentiated.

    All randomness is derived from (seed, step): a run taken up at a step draws what it would have drawn. Where the loss
    or its gradient is not finite, the step is counted and all else stays as it was; the metric `skipped` is then 1.
    """

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(params: Params) -> tuple[jax.Array, Metrics]:
            return objective(frozen | params, batch, key)

        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        # The average starts as the running mean of what it has seen, so that early exports are not the initial weights.
        decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
        ema = cast(Params, optax.incremental_update(params, state.ema, 1 - decay))
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        new, old = (params, opt_state, ema), (state.params, state.opt_state, state.ema)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        metrics = {"loss": loss, "gradient_norm": norm, "skipped": 1.0 - finite} | metrics
        return TrainState(state.step + 1, *kept), metrics

    return jax.jit(step, donate_argnums=0)
