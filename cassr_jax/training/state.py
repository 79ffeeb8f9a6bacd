"""The training state, which a step updates, as one pytree."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax

from cassr_jax.config import OptimizerConfig
from cassr_jax.models.parameters import Params, Shapes
from cassr_jax.sharding.placement import Placement
from cassr_jax.typing import Step


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The trainable parameters `params` and their average `ema`, float32; `step` also counts skipped updates."""

    step: Step
    params: Params
    opt_state: optax.OptState
    ema: Params

    @classmethod
    def create(cls, params: Params, optimizer: optax.GradientTransformation) -> "TrainState":
        return cls(jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.tree.map(jnp.copy, params))


def abstract_state(
    params: Params | Shapes, optimizer: optax.GradientTransformation, placement: Placement
) -> TrainState:
    """The shapes, types and layout of a state, from parameters or their shapes; nothing is computed."""
    state = jax.eval_shape(lambda params: TrainState.create(params, optimizer), params)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        layout(state, placement),
    )


def layout(state: TrainState, placement: Placement) -> TrainState:
    """The shardings of a state, or of one of shapes, between steps."""
    return replace(placement.stored(state), params=placement.held(state.params))


def new_state(params: Params, optimizer: optax.GradientTransformation, placement: Placement) -> TrainState:
    """The state before the first update, created in its layout from parameters that every process holds whole."""
    lying = layout(abstract_state(params, optimizer, placement), placement)
    return jax.jit(lambda params: TrainState.create(params, optimizer), out_shardings=lying)(placement.place(params))


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up to the peak, or the peak at once; then constant or a half cosine to a hundredth of it."""
    peak = config.learning_rate
    start, warmup = (0.0 if config.warmup_steps else peak), max(config.warmup_steps, 1)
    if config.decay == "constant":
        return optax.warmup_constant_schedule(start, peak, warmup)
    # A run that ends within its warm-up has no steps left for the decay.
    return optax.warmup_cosine_decay_schedule(start, peak, warmup, max(num_steps, warmup + 1), peak / 100)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(learning_rate(config, num_steps), config.b1, config.b2, weight_decay=config.weight_decay),
    )
