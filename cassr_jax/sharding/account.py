"""An account of a compiled program: what one call costs each device, read from the program itself."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from cassr_jax.sharding.chips import Chip
from cassr_jax.sharding.costs import SLICES, Collective, collective, work
from cassr_jax.sharding.hlo import Computation, Module, Run, Unstated, parse
from cassr_jax.sharding.mesh import by_slice, slice_axis
from cassr_jax.sharding.times import Reach, Times, collective_seconds, reach, work_seconds


class Memory(Protocol):
    """XLA's account of a program's memory on one device, in bytes."""

    argument_size_in_bytes: int
    output_size_in_bytes: int
    alias_size_in_bytes: int
    temp_size_in_bytes: int


@dataclass(frozen=True)
class Traffic:
    """All collectives of one kind, along the same axes, from the same line.

    Attributes:
        kind: its name in HLO.
        axes: the axes of the mesh; `costs.SLICES` across TPU slices; None if the groups follow no axes.
        source: the line of Python, "file:line"; empty if the compiler made it.
        count: calls on one device, with every trip of a loop; `known` says whether all trips are known.
        nbytes: what one device gives or gets in all of them.
        seconds: by the formulas of `times`.
        hidden: what of these seconds other work covers in the compiled schedule.
    """

    kind: str
    axes: tuple[str, ...] | None
    source: str
    count: int
    nbytes: int
    seconds: float
    hidden: float
    known: bool


@dataclass(frozen=True)
class Account:
    """What one call of a program costs one of its devices; sizes in bytes.

    Attributes:
        mesh: the sizes of the mesh, by axis.
        held: what the device holds between calls, by name.
        temporary: activations, gradients, and all else that lives during a call.
        total: all memory of a call.
        capacity: the memory of the chip; None if the chip is not known.
        flops: of products and convolutions.
        nbytes: read from and written to memory.
        traffic: the collectives, those that take longest first.
        times: seconds; None if the chip is not known.
    """

    mesh: Mapping[str, int]
    held: Mapping[str, int]
    temporary: int
    total: int
    capacity: float | None
    flops: float
    nbytes: float
    traffic: tuple[Traffic, ...]
    times: Times | None

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def fits(self) -> bool | None:
        return None if self.capacity is None else self.total <= self.capacity


def make_account(
    text: str,
    memory: Memory,
    held: Mapping[str, PyTree],
    mesh: Mesh,
    chip: Chip | None,
    unstated: Unstated | None = None,
) -> Account:
    """The account of a compiled program.

    Args:
        text: the program, as `jax.stages.Compiled.as_text` gives it.
        held: title -> the arrays of that kind that the devices hold between calls, or their shapes and shardings.
        chip: None where only what needs no rates is wanted.
        unstated: what the program's text does not say.
    """
    module, slices = parse(text), len(by_slice(list(mesh.devices.flat)))
    within = _first_slice(mesh.devices, slices)
    sizes = dict(zip(mesh.axis_names, within.shape, strict=True))
    flops = nbytes = products = moved = busy = 0.0
    calls: list[tuple[Run, Collective]] = []
    for run in module.runs(unstated):
        found = collective(module, run, sizes)
        if found is not None:
            calls += [(run, found)] if found.group > 1 else []
            continue
        cost = work(module, run)
        flops += cost.flops * run.times
        nbytes += cost.nbytes * run.times
        if chip is not None:
            products += run.times * cost.flops / (chip.flops_float32 if cost.float32 else chip.flops)
            moved += run.times * cost.nbytes / chip.bandwidth
            busy += run.times * work_seconds(cost, chip)
    traffic = _traffic(module, calls, within, mesh.axis_names, slices, chip)
    times = None
    if chip is not None:
        sent, hidden = (sum(getattr(each, name) for each in traffic) for name in ("seconds", "hidden"))
        times = Times(products, moved, busy, sent, hidden)
    unshared = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Account(
        dict(mesh.shape),
        {name: bytes_per_device(jax.tree.leaves(tree)) for name, tree in held.items()},
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes + memory.temp_size_in_bytes + unshared,
        None if chip is None else chip.memory,
        flops,
        nbytes,
        traffic,
        times,
    )


def joined(calls: Sequence[tuple[int, Account]], held: Mapping[str, int], temporary: int) -> Account:
    """The account of several programs that run one after the other.

    Args:
        calls: how often each runs, and the account of one call.
        held, temporary: what the devices hold where that is most.
    """
    _, first = calls[0]
    sums: dict[tuple[str, tuple[str, ...] | None, str], Traffic] = {}
    for times, account in calls:
        for row in account.traffic:
            key = (row.kind, row.axes, row.source)
            old = sums.get(key, Traffic(*key, 0, 0, 0.0, 0.0, True))
            sums[key] = Traffic(
                *key,
                old.count + times * row.count,
                old.nbytes + times * row.nbytes,
                old.seconds + times * row.seconds,
                old.hidden + times * row.hidden,
                old.known and row.known,
            )
    times = None
    if first.times is not None:
        known = [(count, account.times) for count, account in calls if account.times is not None]
        times = Times(*(sum(count * getattr(each, x.name) for count, each in known) for x in fields(Times)))
    return Account(
        first.mesh,
        held,
        temporary,
        sum(held.values()) + temporary,
        first.capacity,
        sum(count * account.flops for count, account in calls),
        sum(count * account.nbytes for count, account in calls),
        _sorted(sums.values()),
        times,
    )


def bytes_per_device(leaves: Iterable[jax.Array | jax.ShapeDtypeStruct]) -> int:
    """The bytes that one device holds of arrays, or of arrays of these shapes, that have a sharding."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _first_slice(devices: np.ndarray, slices: int) -> np.ndarray:
    """The part of a mesh's devices that is the first of so many TPU slices; a program is the same on each of them."""
    axis = slice_axis(devices.shape)
    return np.split(devices, slices, axis)[0]


def _traffic(
    module: Module,
    calls: Sequence[tuple[Run, Collective]],
    devices: np.ndarray,
    names: Sequence[str],
    slices: int,
    chip: Chip | None,
) -> tuple[Traffic, ...]:
    """The collectives by kind, axes and line.

    Args:
        devices: those of the mesh that lie in one TPU slice, with a dimension for each of `names`.
    """
    windows = {} if chip is None else _windows(module, calls, chip)
    joined: dict[tuple[str, ...], Reach] = {}  # a program has thousands of calls along a few sets of axes
    sums: dict[tuple[str, tuple[str, ...] | None, str], list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0, True])
    for run, found in calls:
        seconds = hidden = 0.0
        if chip is not None:
            axes = tuple(names) if found.axes is None else found.axes
            if axes not in joined:
                across = axes == (SLICES,)
                joined[axes] = Reach(1.0, slices, 1) if across else reach(devices, names, axes, chip)
            seconds = collective_seconds(found, joined[axes], chip)
            hidden = min(seconds, windows.get((run.computation.name, found.name), 0.0))
        total = sums[found.kind, found.axes, found.source]
        for place, value in enumerate((1, found.nbytes, seconds, hidden)):
            total[place] += found.times * value
        total[4] = total[4] and found.known
    rows = [
        Traffic(*key, int(count), int(nbytes), seconds, hidden, bool(known))
        for key, (count, nbytes, seconds, hidden, known) in sums.items()
    ]
    return _sorted(rows)


def _sorted(rows: Iterable[Traffic]) -> tuple[Traffic, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.seconds, -row.nbytes, row.kind)))


def _windows(module: Module, calls: Sequence[tuple[Run, Collective]], chip: Chip) -> dict[tuple[str, str], float]:
    """For each collective with an end of its own, the seconds of the work that is scheduled before that end.

    Work that lies in the windows of several collectives is shared among them, so that it hides nothing twice.
    """
    by_computation: dict[str, list[Collective]] = defaultdict(list)
    computations: dict[str, Computation] = {}
    for run, found in calls:
        if found.done != found.name:
            by_computation[run.computation.name].append(found)
            computations[run.computation.name] = run.computation
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for name, starts in by_computation.items():
        computation = computations[name]
        started, ended = {each.name for each in starts}, {each.done: each.name for each in starts}
        open_: list[str] = []
        for instruction in computation.instructions:
            if instruction.name in started:
                open_.append(instruction.name)
            elif instruction.name in ended:
                open_.remove(ended[instruction.name])
            elif open_:
                spent = work_seconds(work(module, Run(computation, instruction, 1, True)), chip)
                for each in open_:
                    seconds[name, each] += spent / len(open_)
    return seconds
