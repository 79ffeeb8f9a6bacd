"""Compiles a training step for devices that are not here, from shapes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from cassr_jax.config import TrainConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.fitting import check_fitting
from cassr_jax.kinds import kind_of
from cassr_jax.models.division import Place, recorded
from cassr_jax.models.parameters import Shapes
from cassr_jax.networks import Networks
from cassr_jax.prompts import blank_ids
from cassr_jax.sharding.account import bytes_per_device, make_account
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.compiler import Effort, compiled, compiling
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.planned import Plan
from cassr_jax.training.flops import traced_flops
from cassr_jax.training.measure import measure
from cassr_jax.training.objectives import Objective, make_objective
from cassr_jax.training.setup import networks_of, parameters_of, read_by
from cassr_jax.training.state import TrainState, abstract_state, make_optimizer
from cassr_jax.training.step import check_division, make_step
from cassr_jax.typing import Device
from cassr_jax.weights.configs import Config

Shape = jax.ShapeDtypeStruct


@dataclass(frozen=True)
class Lowered:
    """A training step that is ready to be compiled.

    Attributes:
        step: the lowered step.
        held: title -> the shapes that the devices hold between steps.
        places: the places in the networks where the strategy may say how values lie.
        useful_flops: the products of one step over all devices, without what is computed again to save memory.
        gradients: bytes of the gradients on one device, in the layout in which the backward pass makes them.
        arguments: the shapes and places of the state, the frozen parameters and the batch.
    """

    step: jax.stages.Lowered
    held: Mapping[str, PyTree]
    places: Mapping[str, Place]
    useful_flops: float
    gradients: int
    arguments: tuple[TrainState, Shapes, Mapping[str, Shape]]


def lower(config: TrainConfig, placement: Placement) -> Lowered:
    """Lower the step of `config` from shapes alone; nothing is computed.

    Raises:
        InputError: the batch or the mesh does not divide, or a network is missing.
    """
    config = without_weights(config)
    check_division(config, placement)
    objective, shapes, frozen = objective_of(config)
    layout = placement.held(frozen)
    held = {name: Shape(value.shape, value.dtype, sharding=layout[name]) for name, value in frozen.items()}
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = abstract_state(shapes, optimizer, placement)
    arguments = (state, held, _batch(config, placement))

    def traced(config: TrainConfig) -> jax.stages.Traced:
        return make_step(objective, optimizer, config, placement, state, held).trace(*arguments)

    with recorded() as places:
        step = traced(config)
    once = step if config.remat == "none" else traced(replace(config, remat="none"))
    gradients = _gradients(state.params, placement, config.accumulate)
    return Lowered(step.lower(), _held(state, held), places, traced_flops(once.jaxpr.jaxpr), gradients, arguments)


def without_weights(config: TrainConfig) -> TrainConfig:
    """The configuration with what the weights and the data would add, which does not affect the cost."""
    schedule = config.schedule or Schedule()
    return replace(config, data=replace(config.data, resident=False), schedule=schedule)


def objective_of(config: TrainConfig) -> tuple[Objective, Shapes, Shapes]:
    """The objective of a stage, and the shapes of its trained and of its frozen parameters.

    Raises:
        InputError: a network is missing.
    """
    networks = _networks(config)
    trainable, frozen = parameters_of(config, networks)
    text = networks.configs.get("text_encoder")
    objective = make_objective(config, networks.graphdefs, None if text is None else blank_ids(text, 2))
    trained = {name: Shape(value.shape, jnp.float32) for name, value in trainable.items()}
    return objective, trained, {name: Shape(value.shape, config.frozen_dtype) for name, value in frozen.items()}


def layout_of(config: TrainConfig, placement: Placement) -> dict[str, Place]:
    """Where all parameters and all named values of a step lie, by name."""
    lowered = lower(config, placement)
    held = lowered.held["trained parameters"] | lowered.held["frozen parameters"]
    return {name: (x.shape, x.sharding) for name, x in held.items()} | dict(lowered.places)


def compile_for(
    config: TrainConfig, on: str, strategy: str = "", effort: Effort = "full", measured_steps: int = 0
) -> Plan:
    """The plan of a step of `config` on a TPU slice or on GPUs.

    Args:
        on: the devices, such as "v5e:16x16" or "h200:8".
        strategy: the name of `config.strategy`, for the plan.
        effort: "quick" compiles with the least optimisation, which takes minutes where "full" takes tens of them.
        measured_steps: steps that are also run, on random data; the devices must be here, and all of them this
            process's.

    Raises:
        InputError: there are no such devices, the batch or the mesh does not divide, a network is missing, or the
            compiler, which runs in a process of its own, crashed.
    """
    return compiling(on, effort, _compiled, config, on, strategy, measured_steps, here=measured_steps > 0)


def _compiled(devices: Sequence[Device], config: TrainConfig, on: str, strategy: str, measured_steps: int) -> Plan:
    placement = Placement.of(config.strategy, devices)
    lowered = lower(config, placement)
    program, text, memory = compiled(
        lowered.step,
        f"{on} {strategy}: the step",
        "a smaller batch on each device, accumulate, remat or more devices",
    )
    chip = CHIPS.get(on.partition(":")[0])
    account = make_account(text, memory, lowered.held, placement.mesh, chip)
    measured = None
    if measured_steps:
        measured = measure(program, lowered.arguments, placement.mesh, measured_steps, chip)
    return Plan(
        on,
        strategy or "as configured",
        config.stage,
        config.batch_size,
        config.num_steps,
        lowered.useful_flops / account.devices,
        min(lowered.gradients, account.temporary),
        account,
        measured,
    )


def _gradients(params: Mapping[str, jax.Array], placement: Placement, parts: int) -> int:
    """The bytes of all gradients on one device: as the parameters are used, and their sum if parts add up."""

    def nbytes(shardings: Mapping[str, NamedSharding]) -> int:
        return bytes_per_device(Shape(x.shape, x.dtype, sharding=shardings[name]) for name, x in params.items())

    used = nbytes(placement.used(params))
    summed = used if placement.strategy.zero == 1 else nbytes(placement.stored(params))
    return used + (summed if parts > 1 else 0)


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
    for kind, network in _configurations(config).items():
        networks = networks.with_shapes(kind, network, config.dtype)
    check_fitting(networks.configs, config.components)
    return networks


def _configurations(config: TrainConfig) -> dict[str, Config]:
    """The configurations of the stage's networks, by kind."""
    return {
        kind: config.new[kind] if kind in config.new else kind_of(kind).configuration(config.components[kind])
        for kind in networks_of(config)
    }


def described(config: TrainConfig) -> str:
    """What the stage's networks are like, which their paths do not say; empty if one cannot be read."""
    try:
        return repr(_configurations(config))
    except InputError:  # which the plan will say
        return ""


def _batch(config: TrainConfig, placement: Placement) -> Mapping[str, Shape]:
    """The shapes of a batch without prepared latents."""
    side = config.data.crop_size
    image = partial(Shape, dtype=np.uint8, sharding=placement.examples)
    return {name: image((config.batch_size, side, side, 3)) for name in read_by(config, "hr")}
