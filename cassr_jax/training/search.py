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
from cassr_jax.errors import InputError
from cassr_jax.sharding.account import bytes_per_device
from cassr_jax.sharding.chips import Chip
from cassr_jax.sharding.mesh import slice_axis
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.report import columns, seconds, size
from cassr_jax.sharding.strategies import AXES, BATCH_AXES, STRATEGIES, MeshConfig, Strategy
from cassr_jax.sharding.times import Reach, closes, ring_seconds
from cassr_jax.training.outline import REMATS, Outline

# Shares by which plans of SD-1.5's step on H200 (docs/plans) were matched: how much of a chip's peak its products reach
# (50 % in their best guess without communication), how much of the communication is hidden (51 to 68 %), and how much
# more a device computes for each further one that it shares examples with (7 % under fsdp_tp; by a narrow step, 3 %
# under spatial).
_REACHED, _HIDDEN = 0.5, 0.5
_REPEATED = {"tensor": 0.07, "spatial": 0.03}
_ROOM = 0.8  # of a chip's memory
_STATES = 4  # the parameters, two moments and the average


@dataclass(frozen=True)
class Site:
    """The devices that are to share a step.

    Attributes:
        devices: how many there are.
        sides: of what fast links join, the torus of a slice or the GPUs of a host.
        hosts: how many there are, each with a process that reads its own share of every batch.
        slices: how many there are.
    """

    devices: int
    sides: Sequence[int]
    hosts: int = 1
    slices: int = 1


@dataclass(frozen=True)
class Choice:
    """A way to divide a step, and what arithmetic says of it.

    Attributes:
        name: of the strategy, with the sizes of its mesh.
        known: the name of the strategy in `STRATEGIES`.
        config: the configuration with this strategy.
        held: about the bytes that a device holds. A compiler may keep as little as half of the values that wait for the
            backward pass.
        seconds: about what a step takes.
        sent: about the seconds of communication, hidden or not.
    """

    name: str
    known: str
    config: TrainConfig
    held: float
    seconds: float
    sent: float

    @property
    def says(self) -> str:
        return f"{self.name}, remat {self.config.remat}, accumulate {self.config.accumulate}"

    @property
    def options(self) -> str:
        """The options of train.py and of the planner that mean it."""
        mine, usual = self.config.strategy, STRATEGIES[self.known]
        sizes = {f"mesh.{axis}": getattr(mine.mesh, axis) for axis in AXES}
        changed = {
            name: size for name, size in sizes.items() if size != getattr(usual.mesh, name.removeprefix("mesh."))
        }
        if mine.gather != usual.gather:
            changed["gather"] = mine.gather
        settings = [f"strategy.{name}={value}" for name, value in changed.items()]
        settings += [f"remat={self.config.remat}", f"accumulate={self.config.accumulate}"]
        return f"--strategy {self.known} --set {' '.join(settings)}"


def choices(config: TrainConfig, outline: Outline, site: Site, chip: Chip) -> list[Choice]:
    """The ways to divide a step that the batch allows; the fastest that may fit come first.

    Raises:
        InputError: no way divides the batch.
    """
    found = []
    started = round(config.loss.start_fraction * config.batch_size)
    for name, known, strategy, sizes in _strategies(site.devices):
        shards = math.prod(sizes[axis] for axis in BATCH_AXES)
        if shards % site.hosts or [*sizes.values()][slice_axis([*sizes.values()])] % site.slices:
            continue  # which training refuses
        placement = Placement(AbstractMesh(tuple(sizes.values()), AXES), strategy)  # pyright: ignore[reportArgumentType]
        most = config.batch_size // shards if config.batch_size % shards == 0 else 0
        parts = [count for count in range(1, most + 1) if most % count == started % count == 0]
        for remat in REMATS:
            if strategy.gather == "again" and remat == "none":
                continue  # only what is computed again is gathered again
            sized = (replace(config, strategy=strategy, remat=remat, accumulate=count) for count in parts)
            judged = [_judged(name, known, each, outline, placement, site, chip) for each in sized]
            # More parts only cost time, so the fewest that leave room for what arithmetic does not see.
            found += [each for each in judged if each.held <= _ROOM * chip.memory][:1] or judged[-1:]
    if not found:
        devices, hosts = site.devices, f" on {site.hosts} hosts" if site.hosts > 1 else ""
        raise InputError(
            f"batch_size is {config.batch_size}, expected one that a mesh of {devices} devices{hosts} divides, such as "
            f"{devices * max(1, round(config.batch_size / devices))}"
        )
    return sorted(found, key=lambda choice: (choice.held > chip.memory, choice.seconds))


def candidates(found: Sequence[Choice], count: int, memory: float) -> list[Choice]:
    """The choices to compile: the best, the best with each other `remat` that fits, and then the others in order.

    What a compiler makes of `remat` is what arithmetic knows least about.

    Args:
        memory: of a device, bytes.
    """
    fitting = [choice for choice in found if choice.held <= memory] or found[:1]
    firsts = list({choice.config.remat: choice for choice in reversed(fitting)}.values())
    firsts.sort(key=found.index)
    return [*firsts, *(choice for choice in found if choice not in firsts)][:count]


def ranking(found: Sequence[Choice], chip: Chip, rows: int = 8) -> str:
    """The choices in words, the best first."""
    fitting = [choice for choice in found if choice.held <= chip.memory]
    beyond = len(found) - len(fitting)
    head = f"{len(found)} ways to divide the step; {beyond} of them may hold more than {size(chip.memory)}."
    cells = [
        [each.says, size(each.held), seconds(each.seconds), seconds(each.sent)] for each in (fitting or found)[:rows]
    ]
    return f"{head}\n\n{columns(['by arithmetic', 'held, about', 'a step', 'communication'], cells)}"


def _strategies(devices: int) -> Iterator[tuple[str, str, Strategy, dict[str, int]]]:
    """The known strategies with every mesh that divides the devices, each after a name and its name in `STRATEGIES`."""
    if devices == 1:
        yield "dp", "dp", *_sized(STRATEGIES["dp"], {})
        return
    powers = [2**power for power in range(1, devices.bit_length()) if devices % 2**power == 0]
    for name in ("dp", "zero1", "zero2", "fsdp"):
        axis = "data" if name == "dp" else "fsdp"
        yield name, name, *_sized(STRATEGIES[name], {axis: devices})
    yield "fsdp, gathered again", "fsdp", *_sized(replace(STRATEGIES["fsdp"], gather="again"), {"fsdp": devices})
    for name in ("hybrid", "fsdp_2d"):
        for count in powers[1:]:
            if count < devices:
                yield f"{name} of {count}", name, *_sized(STRATEGIES[name], {"data": devices // count, "fsdp": count})
    for name, axis in (("fsdp_tp", "tensor"), ("spatial", "spatial")):
        for count in powers[:3]:
            yield f"{name} of {count}", name, *_sized(STRATEGIES[name], {"fsdp": devices // count, axis: count})


def _sized(strategy: Strategy, sizes: Mapping[str, int]) -> tuple[Strategy, dict[str, int]]:
    whole = {axis: sizes.get(axis, 1) for axis in AXES}
    return replace(strategy, mesh=MeshConfig(**whole)), whole


def _judged(
    name: str, known: str, config: TrainConfig, outline: Outline, placement: Placement, site: Site, chip: Chip
) -> Choice:
    mesh, strategy = placement.mesh.shape, placement.strategy
    examples = config.batch_size / math.prod(mesh.values())  # of a device; those that share one have a part of it each
    divided = bytes_per_device(_with(outline.trained, placement.stored(outline.trained)))
    state = bytes_per_device(_with(outline.trained, placement.held(outline.trained))) + (_STATES - 1) * divided
    base = bytes_per_device(_with(outline.frozen, placement.held(outline.frozen)))

    def collective(kind: str, nbytes: float, *axes: str) -> float:
        return _seconds(kind, nbytes, mesh, axes, site.sides, chip)

    width = jnp.dtype(config.dtype).itemsize
    whole = _with(outline.trained, placement.used(outline.trained))
    narrow = _bytes([*whole, *_with(outline.frozen, placement.used(outline.frozen))], width)
    sent, parts = 0.0, config.accumulate
    if strategy.rules and strategy.zero == 3:
        times = 2.0 * parts if strategy.gather == "again" else 1.0
        sent += times * collective("all-gather", narrow, *_storing(strategy))
    elif strategy.rules:
        sent += collective("all-gather", bytes_per_device(whole), *BATCH_AXES)
    summed, storing = _bytes(whole, width), _storing(strategy) if strategy.zero > 1 else ()
    if storing:  # scattered over the axes that store them, for each part of the batch, and summed over the others
        sent += parts * collective("reduce-scatter", summed, *storing)
        summed /= math.prod(mesh[axis] for axis in storing)
    sent += collective("all-reduce", summed, *(axis for axis in BATCH_AXES if axis not in storing))
    passes = 2.0 if config.remat == "none" else 3.0
    together = examples * mesh["tensor"] * mesh["spatial"]
    sent += passes * collective("all-reduce", outline.sums * together, "tensor")
    sent += passes * collective("all-gather", outline.keys * together, "spatial")
    held = state + base + outline.kept[config.remat] * examples / parts
    if strategy.rules and strategy.zero == 3 and strategy.gather == "once":
        held += narrow  # kept until the backward pass has ended
    repeated = 1.0 + sum(share * (mesh[axis] - 1) for axis, share in _REPEATED.items())
    peak = chip.flops_float32 if width == 4 else chip.flops
    work = repeated * outline.flops[config.remat] * examples / (_REACHED * peak)
    work += (2 * state + base) / chip.bandwidth
    return Choice(name, known, config, held, work + (1 - _HIDDEN) * sent, sent)


def _storing(strategy: Strategy) -> tuple[str, ...]:
    """The axes that divide the examples and stored parameters too."""
    named = {axis for rule in strategy.rules for axes in rule.axes for axis in axes}
    return tuple(axis for axis in BATCH_AXES if axis in named)


def _with(shapes: Mapping[str, jax.ShapeDtypeStruct], layout: Mapping[str, jax.sharding.Sharding]) -> list:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout[name]) for name, x in shapes.items()]


def _bytes(leaves: Sequence[jax.ShapeDtypeStruct], width: int) -> float:
    """The bytes on one device if no number is wider than this."""
    return sum(bytes_per_device([x]) * min(1.0, width / x.dtype.itemsize) for x in leaves)


def _seconds(
    kind: str, nbytes: float, mesh: Mapping[str, int], axes: Sequence[str], sides: Sequence[int], chip: Chip
) -> float:
    """The seconds of a collective along some axes, of which the later ones lie closer together."""
    count = math.prod(mesh[axis] for axis in axes)
    if count == 1:
        return 0.0
    last = max(AXES.index(axis) for axis in axes)
    apart = math.prod(mesh[axis] for axis in AXES[last + 1 :])  # how far neighbours in the group lie apart
    each = math.gcd(count, max(1, math.prod(sides) // apart))
    return ring_seconds(kind, nbytes, Reach(_rings(each, sides, chip), count // each, each), chip)


def _rings(count: int, sides: Sequence[int], chip: Chip) -> tuple[tuple[int, float], ...]:
    """The dimensions over which neighbours extend that fill one side after the other, and the links in each."""
    if not chip.dimensions:
        return ((count, 1.0),)
    found = []
    for side in reversed(sides):
        taken = min(side, count)
        if taken > 1:
            found.append((taken, 2.0 if taken == side and closes(side, sides, chip) else 1.0))
        count //= taken
    return tuple(found)
