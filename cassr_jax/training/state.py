"""What a training step changes, as one pytree."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from cassr_jax.config import OptimizerConfig
from cassr_jax.models.parameters import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """`params` and `ema` hold the trainable parameters only, float32; `step` counts updates, the skipped ones too."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params

    @classmethod
    def create(cls, params: Params, optimizer: optax.GradientTransformation) -> "TrainState":
        return cls(jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.tree.map(jnp.copy, params))


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up to the peak, then constant or a half cosine to a hundredth of it."""
    peak = config.learning_rate
    if config.decay == "constant":
        return optax.warmup_constant_schedule(0.0, peak, max(config.warmup_steps, 1))
    return optax.warmup_cosine_decay_schedule(0.0, peak, max(config.warmup_steps, 1), num_steps, peak / 100)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(learning_rate(config, num_steps), config.b1, config.b2, weight_decay=config.weight_decay),
    )
