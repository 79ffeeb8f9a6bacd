"""A training step compiled for devices that are not here, from shapes alone."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from cassr_jax.config import TrainConfig
from cassr_jax.errors import InputError
from cassr_jax.evaluation.weights import lpips_weights
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks
from cassr_jax.sharding.plan import Plan
from cassr_jax.sharding.report import describe
from cassr_jax.training.assembly import networks_of, read_by
from cassr_jax.training.image_loss import needs_lpips
from cassr_jax.training.masking import partition
from cassr_jax.training.objectives import make_objective
from cassr_jax.training.state import TrainState, abstract_state, make_optimizer
from cassr_jax.training.step import check_division, make_step
from cassr_jax.weights.loading import configuration

Shape = jax.ShapeDtypeStruct


def topology_devices(name: str) -> Sequence[Any]:
    """The devices of a TPU slice, as `v5e:2x4`; the package libtpu is enough, no TPU is needed.

    Raises:
        InputError: libtpu is not installed, or knows no such slice.
    """
    # Read by libtpu when it is loaded: ask no metadata server, mind no lock of another process.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(variable, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # libtpu's own kinds, of which some have no other base
        raise InputError(
            f"{name}: no TPU slice that can be compiled for, expected one such as v5e:2x4 and the extra `tpu` "
            f"({str(error).splitlines()[0]})"
        ) from error


def lower(config: TrainConfig, devices: Sequence[Any]) -> tuple[jax.stages.Lowered, dict[str, Any]]:
    """The step of `config` on `devices`, and the shapes of what they hold between steps; nothing is computed.

    Raises:
        InputError: the batch or the mesh does not divide, or a network is missing.
    """
    config = replace(config, data=replace(config.data, resident=False))
    plan = Plan.of(config.strategy, devices)
    check_division(config, plan)
    networks = _networks(config)
    shapes: dict[str, Any] = {name: Shape(value.shape, jnp.float32) for name, value in networks.params.items()}
    trainable, frozen = partition(shapes, config.stage)
    if needs_lpips(config):
        weights = lpips_weights("vgg16")
        frozen |= {f"lpips.{name}": Shape(value.shape, jnp.float32) for name, value in weights.items()}
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = abstract_state(trainable, optimizer, plan)
    layout = plan.stored(frozen)
    placed: dict[str, Any] = {
        name: Shape(value.shape, config.frozen_dtype, sharding=layout[name]) for name, value in frozen.items()
    }
    objective = make_objective(config, networks.graphdefs, _prompt_ids(networks))
    lowered = make_step(objective, optimizer, config, plan, state, placed).lower(state, placed, _batch(config, plan))
    return lowered, _held(state, placed)


def compile_for(config: TrainConfig, topology: str) -> str:
    """What a step of `config` asks of each chip of a TPU slice: bytes, FLOPs and collectives."""
    devices = topology_devices(topology)
    lowered, held = lower(config, devices)
    mesh = ", ".join(f"{axis} {size}" for axis, size in Plan.of(config.strategy, devices).mesh.shape.items())
    title = f"stage {config.stage}, {config.batch_size} examples a step on {topology}: {mesh}; on each chip"
    return f"{title}\n{describe(lowered.compile(), held)}"


def _held(state: TrainState, frozen: Params) -> dict[str, Any]:
    return {
        "trained parameters": state.params,
        "optimizer": state.opt_state,
        "average": state.ema,
        "frozen parameters": frozen,
    }


def _networks(config: TrainConfig) -> Networks:
    """Networks whose parameters are shapes."""
    networks = Networks()
    for kind in networks_of(config):
        network = config.new[kind] if kind in config.new else configuration(config.components[kind], kind)
        networks = networks.with_shapes(kind, network, config.dtype)
    return networks


def _prompt_ids(networks: Networks) -> np.ndarray | None:
    """Tokens of the right shape; what they say changes nothing here."""
    text = networks.configs.get("text_encoder")
    if text is None:
        return None
    return np.zeros((2, 1 if isinstance(text, LearnedContextConfig) else text.max_position_embeddings), np.int32)


def _batch(config: TrainConfig, plan: Plan) -> Mapping[str, Shape]:
    """As data without prepared latents give it."""
    side = config.data.crop_size
    image = partial(Shape, dtype=np.uint8, sharding=plan.examples)
    return {name: image((config.batch_size, side, side, 3)) for name in read_by(config, "hr")}
