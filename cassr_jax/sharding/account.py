"""An account of a compiled program: what one call costs each device, read from the program itself."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from cassr_jax.sharding.chips import Chip
from cassr_jax.sharding.costs import PREFETCHES, Collective, collective, ended_by, work
from cassr_jax.sharding.hlo import Computation, Module, Run, Unstated, parse
from cassr_jax.sharding.times import Links, Times, work_seconds


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
    module, links, unstated = parse(text), Links(mesh, chip), unstated or Unstated()
    flops = nbytes = products = moved = busy = 0.0
    calls: list[tuple[Run, Collective]] = []
    prefetches: list[tuple[Run, float]] = []
    for run in module.runs(unstated):
        found = collective(module, run, links.sizes)
        if found is not None:
            calls += [(run, found)] if found.group > 1 else []
            continue
        cost = work(module, run)
        flops += cost.flops * run.times
        nbytes += cost.nbytes * run.times
        if chip is None:
            continue
        products += run.times * cost.flops / (chip.flops_float32 if cost.float32 else chip.flops)
        moved += run.times * cost.nbytes / chip.bandwidth
        if run.instruction.opcode in PREFETCHES:
            prefetches.append((run, work_seconds(cost, chip)))
        else:
            busy += run.times * work_seconds(cost, chip)
    hidden = {}
    if chip is not None:
        started = [Started(run.computation, each.name, each.done, links.seconds(each)) for run, each in calls]
        started += [
            Started(run.computation, run.instruction.name, ended_by(run.computation, run.instruction), seconds)
            for run, seconds in prefetches
        ]
        hidden = _hidden(module, started, chip, unstated)
        busy += sum(
            run.times * (seconds - hidden.get((run.computation.name, run.instruction.name), 0.0))
            for run, seconds in prefetches
        )
    traffic = _traffic(calls, links, hidden)
    times = None
    if chip is not None:
        sent, covered = (sum(getattr(each, name) for each in traffic) for name in ("seconds", "hidden"))
        times = Times(products, moved, busy, sent, covered)
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


def _traffic(
    calls: Sequence[tuple[Run, Collective]], links: Links, hidden: Mapping[tuple[str, str], float]
) -> tuple[Traffic, ...]:
    """The collectives by kind, axes and line.

    Args:
        hidden: (computation, instruction) -> the seconds of one call that other work covers.
    """
    sums: dict[tuple[str, tuple[str, ...] | None, str], list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0, True])
    for run, found in calls:
        total = sums[found.kind, found.axes, found.source]
        covered = hidden.get((run.computation.name, found.name), 0.0)
        for place, value in enumerate((1, found.nbytes, links.seconds(found), covered)):
            total[place] += found.times * value
        total[4] = total[4] and found.known
    rows = [
        Traffic(*key, int(count), int(nbytes), seconds, covered, bool(known))
        for key, (count, nbytes, seconds, covered, known) in sums.items()
    ]
    return _sorted(rows)


def _sorted(rows: Iterable[Traffic]) -> tuple[Traffic, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.seconds, -row.nbytes, row.kind)))


class Started(NamedTuple):
    """Something that runs beside other instructions of a computation from its own place to that of `done`."""

    computation: Computation
    name: str
    done: str
    seconds: float


def _hidden(module: Module, started: Iterable[Started], chip: Chip, unstated: Unstated) -> dict[tuple[str, str], float]:
    """(computation, instruction) -> the seconds of what was started that the work until its end covers.

    Work beside several of them is shared among those that need it, so that it covers nothing twice.
    """
    by_computation: dict[str, list[Started]] = defaultdict(list)
    for each in started:
        if each.done != each.name:
            by_computation[each.computation.name].append(each)
    hidden: dict[tuple[str, str], float] = {}
    for name, own in by_computation.items():
        needs = {each.name: each.seconds for each in own}
        whole, ended = dict(needs), {each.done: each.name for each in own}
        waiting: list[str] = []
        computation = own[0].computation
        for instruction in computation.instructions:
            if instruction.name in needs:
                waiting.append(instruction.name)
            elif instruction.name in ended:
                waiting.remove(ended[instruction.name])
            elif waiting:
                inner = module.entered(Run(computation, instruction, 1, True), unstated)
                _share(sum(run.times * work_seconds(work(module, run), chip) for run in inner), waiting, needs)
        hidden |= {(name, each): whole[each] - left for each, left in needs.items()}
    return hidden


def _share(seconds: float, among: Sequence[str], needs: dict[str, float]) -> None:
    """Takes seconds from the needs of some, equally from all that have as much left."""
    hungry = sorted(among, key=lambda name: needs[name])
    for number, name in enumerate(hungry):
        part = min(needs[name], seconds / (len(hungry) - number))
        needs[name] -= part
        seconds -= part
