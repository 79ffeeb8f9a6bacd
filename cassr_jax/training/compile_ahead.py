"""Compiles a training step for devices that are not here, from shapes alone."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cassr_jax.config import TrainConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.fitting import check_fitting
from cassr_jax.kinds import kind_of
from cassr_jax.models.parameters import Shapes
from cassr_jax.networks import Networks
from cassr_jax.prompts import blank_ids
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.report import describe
from cassr_jax.sharding.topologies import topology_devices
from cassr_jax.training.child import Died, in_child
from cassr_jax.training.objectives import make_objective
from cassr_jax.training.setup import networks_of, parameters_of, read_by
from cassr_jax.training.state import TrainState, abstract_state, make_optimizer
from cassr_jax.training.step import check_division, make_step

Shape = jax.ShapeDtypeStruct


def lower(config: TrainConfig, placement: Placement) -> tuple[jax.stages.Lowered, dict[str, PyTree]]:
    """The lowered step of `config`, and the shapes that the devices hold between steps; nothing is computed.

    Raises:
        InputError: the batch or the mesh does not divide, or a network is missing.
    """
    # The weights need not be here, and their schedule does not affect the cost.
    schedule = config.schedule or Schedule()
    config = replace(config, data=replace(config.data, resident=False), schedule=schedule)
    check_division(config, placement)
    networks = _networks(config)
    trainable, frozen = parameters_of(config, networks)
    shapes = {name: Shape(value.shape, jnp.float32) for name, value in trainable.items()}
    layout = placement.stored(frozen)
    held = {name: Shape(value.shape, config.frozen_dtype, sharding=layout[name]) for name, value in frozen.items()}
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = abstract_state(shapes, optimizer, placement)
    text = networks.configs.get("text_encoder")
    objective = make_objective(config, networks.graphdefs, None if text is None else blank_ids(text, 2))
    step = make_step(objective, optimizer, config, placement, state, held)
    return step.lower(state, held, _batch(config, placement)), _held(state, held)


def compile_for(config: TrainConfig, topology: str) -> str:
    """An account of what a step of `config` costs each chip of a TPU slice or each GPU: bytes, FLOPs and collectives.

    Raises:
        InputError: there are no such devices, the batch or the mesh does not divide, a network is missing, or the
            compiler, which runs in a process of its own, crashed.
    """
    try:
        return in_child(_compiled, config, topology)
    except Died as error:
        raise InputError(
            f"{topology}: the compiler did not finish ({error}); expected devices that it knows, such as v5e:2x4 or "
            "h200:8, and enough memory"
        ) from error


def _compiled(config: TrainConfig, topology: str) -> str:
    jax.config.update("jax_platforms", "cpu")  # libtpu only compiles here; JAX must not look for a TPU
    placement = Placement.of(config.strategy, topology_devices(topology))
    lowered, held = lower(config, placement)
    mesh = ", ".join(f"{axis} {size}" for axis, size in placement.mesh.shape.items())
    title = f"stage {config.stage}, {config.batch_size} examples a step on {topology}: {mesh}; on each chip"
    return f"{title}\n{describe(lowered.compile(), held)}"


def _held(state: TrainState, frozen: Shapes) -> dict[str, PyTree]:
    return {
        "trained parameters": state.params,
        "optimizer": state.opt_state,
        "average": state.ema,
        "frozen parameters": frozen,
    }


def _networks(config: TrainConfig) -> Networks:
    """The stage's networks, with shapes in place of parameters."""
    networks = Networks()
    for kind in networks_of(config):
        network = config.new[kind] if kind in config.new else kind_of(kind).configuration(config.components[kind])
        networks = networks.with_shapes(kind, network, config.dtype)
    check_fitting(networks.configs, config.components)
    return networks


def _batch(config: TrainConfig, placement: Placement) -> Mapping[str, Shape]:
    """The shapes of a batch without prepared latents."""
    side = config.data.crop_size
    image = partial(Shape, dtype=np.uint8, sharding=placement.examples)
    return {name: image((config.batch_size, side, side, 3)) for name in read_by(config, "hr")}
