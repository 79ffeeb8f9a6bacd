"""A search for the best division of a training step among devices: what arithmetic rules out, and what it puts first.

Arithmetic knows a step's products, what it must hold and what it must send. It does not know how a compiler schedules
all this, so the best few of its choices are compiled, and the plans decide.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from cassr_jax.config import TrainConfig
from cassr_jax.sharding.account import bytes_per_device
from cassr_jax.sharding.chips import Chip
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.report import columns, seconds, size
from cassr_jax.sharding.strategies import AXES, BATCH_AXES, STRATEGIES, MeshConfig, Strategy
from cassr_jax.sharding.times import Reach, ring_seconds
from cassr_jax.training.outline import REMATS, Outline

# Shares that plans of compiled steps of SD-1.5 say (docs/sharding.md): how much of a chip's peak the products reach,
# how much of the communication is hidden, and how much more a device computes for each further one that it shares
# examples with.
_REACHED, _HIDDEN = 0.5, 0.5
_REPEATED = {"tensor": 0.07, "spatial": 0.03}
_PARTS = (1, 2, 4, 8)
_ROOM = 0.8  # of a chip's memory
_STATES = 4  # the parameters, two moments and the average


@dataclass(frozen=True)
class Choice:
    """A way to divide a step, and what arithmetic says of it.

    Attributes:
        name: of the strategy, with the sizes of its mesh.
        config: the configuration with this strategy.
        least: bytes that a device holds at least.
        seconds: about what a step takes.
        sent: about the seconds of communication, hidden or not.
    """

    name: str
    config: TrainConfig
    least: float
    seconds: float
    sent: float

    @property
    def says(self) -> str:
        return f"{self.name}, remat {self.config.remat}, accumulate {self.config.accumulate}"


def choices(config: TrainConfig, outline: Outline, devices: int, in_host: int, chip: Chip) -> list[Choice]:
    """All ways to divide a step that the batch allows; the fastest that may fit come first.

    Args:
        devices: how many there are.
        in_host: how many of them are joined by fast links: the GPUs of a host, or the chips of a slice.
    """
    found = []
    for name, strategy, sizes in _strategies(devices):
        shards = math.prod(sizes[axis] for axis in BATCH_AXES)
        placement = Placement(AbstractMesh(tuple(sizes.values()), AXES), strategy)  # pyright: ignore[reportArgumentType]
        parts = [count for count in _PARTS if config.batch_size % (shards * count) == 0]
        for remat in REMATS:
            sized = (replace(config, strategy=strategy, remat=remat, accumulate=count) for count in parts)
            judged = [_judged(name, each, outline, placement, in_host, chip) for each in sized]
            # More parts only cost time, so the fewest that leave room for what arithmetic does not see.
            found += [each for each in judged if each.least <= _ROOM * chip.memory][:1] or judged[-1:]
    return sorted(found, key=lambda choice: (choice.least > chip.memory, choice.seconds))


def ranking(found: Sequence[Choice], chip: Chip, rows: int = 8) -> str:
    """The choices in words, the best first."""
    fitting = [choice for choice in found if choice.least <= chip.memory]
    head = (
        f"{len(found)} ways to divide the step; {len(found) - len(fitting)} of them hold more than {size(chip.memory)}."
    )
    cells = [
        [each.says, size(each.least), seconds(each.seconds), seconds(each.sent)] for each in (fitting or found)[:rows]
    ]
    return f"{head}\n\n{columns(['by arithmetic', 'held at least', 'a step', 'communication'], cells)}"


def _strategies(devices: int) -> Iterator[tuple[str, Strategy, dict[str, int]]]:
    """The known strategies with every mesh that divides the devices."""
    powers = [2**power for power in range(1, devices.bit_length()) if devices % 2**power == 0]
    for name in ("dp", "zero1", "zero2", "fsdp"):
        axis = "data" if name == "dp" else "fsdp"
        yield name, *_sized(STRATEGIES[name], {axis: devices})
    for name in ("hybrid", "fsdp_2d"):
        for count in powers[1:]:
            if count < devices:
                yield f"{name} of {count}", *_sized(STRATEGIES[name], {"data": devices // count, "fsdp": count})
    for name, axis in (("fsdp_tp", "tensor"), ("spatial", "spatial")):
        for count in powers[:3]:
            yield f"{name} of {count}", *_sized(STRATEGIES[name], {"fsdp": devices // count, axis: count})


def _sized(strategy: Strategy, sizes: Mapping[str, int]) -> tuple[Strategy, dict[str, int]]:
    whole = {axis: sizes.get(axis, 1) for axis in AXES}
    return replace(strategy, mesh=MeshConfig(**whole)), whole


def _judged(name: str, config: TrainConfig, outline: Outline, placement: Placement, in_host: int, chip: Chip) -> Choice:
    mesh, strategy = placement.mesh.shape, placement.strategy
    examples = config.batch_size / math.prod(mesh.values())  # of a device; those that share one have a part of it each
    divided = bytes_per_device(_with(outline.trained, placement.stored(outline.trained)))
    state = bytes_per_device(_with(outline.trained, placement.held(outline.trained))) + (_STATES - 1) * divided
    base = bytes_per_device(_with(outline.frozen, placement.held(outline.frozen)))

    def collective(kind: str, nbytes: float, *axes: str) -> float:
        return _seconds(kind, nbytes, mesh, axes, in_host, chip)

    width = jnp.dtype(config.dtype).itemsize
    whole = _with(outline.trained, placement.used(outline.trained))
    narrow = _bytes([*whole, *_with(outline.frozen, placement.used(outline.frozen))], width)
    sent = 0.0
    if strategy.rules and strategy.zero == 3:
        sent += collective("all-gather", narrow, *_storing(strategy))
    elif strategy.rules:
        sent += collective("all-gather", bytes_per_device(whole), *BATCH_AXES)
    summed = "reduce-scatter" if strategy.rules and strategy.zero > 1 else "all-reduce"
    sent += collective(summed, _bytes(whole, width), *BATCH_AXES)
    passes = 2.0 if config.remat == "none" else 3.0
    together = examples * mesh["tensor"] * mesh["spatial"]
    sent += passes * collective("all-reduce", outline.sums * together, "tensor")
    sent += passes * collective("all-gather", outline.keys * together, "spatial")
    least = state + base + outline.kept[config.remat] * examples / config.accumulate
    if strategy.rules and strategy.zero == 3:
        least += narrow  # gathered once, and kept
    repeated = 1.0 + sum(share * (mesh[axis] - 1) for axis, share in _REPEATED.items())
    work = repeated * outline.flops[config.remat] * examples / (_REACHED * chip.flops)
    work += (2 * state + base) / chip.bandwidth
    return Choice(name, config, least, work + (1 - _HIDDEN) * sent, sent)


def _storing(strategy: Strategy) -> tuple[str, ...]:
    """The axes that divide the examples and stored parameters too."""
    named = {axis for rule in strategy.rules for axes in rule.axes for axis in axes}
    return tuple(axis for axis in BATCH_AXES if axis in named)


def _with(shapes: Mapping[str, jax.ShapeDtypeStruct], layout: Mapping[str, jax.sharding.Sharding]) -> list:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout[name]) for name, x in shapes.items()]


def _bytes(leaves: Sequence[jax.ShapeDtypeStruct], width: int) -> float:
    """The bytes on one device if no number is wider than this."""
    return sum(bytes_per_device([x]) * min(1.0, width / x.dtype.itemsize) for x in leaves)


def _seconds(kind: str, nbytes: float, mesh: Mapping[str, int], axes: Sequence[str], in_host: int, chip: Chip) -> float:
    """The seconds of a collective along some axes, of which the later ones lie closer together."""
    count = math.prod(mesh[axis] for axis in axes)
    if count == 1:
        return 0.0
    last = max(AXES.index(axis) for axis in axes)
    apart = math.prod(mesh[axis] for axis in AXES[last + 1 :])  # how far neighbours in the group lie apart
    each = max(1, min(count, in_host // apart))
    links = 1.0 if not chip.dimensions else 2.0 * min(chip.dimensions, max(1, round(math.log(count, 8))))
    return ring_seconds(kind, nbytes, Reach(links, count // each, each), chip)
