"""What a program took where its devices are, as a whole and by operation, from a trace of JAX's profiler."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.profiler import ProfileData
from jax.sharding import Mesh

from cassr_jax.sharding.chips import Chip
from cassr_jax.sharding.costs import collective, work
from cassr_jax.sharding.hlo import Module, Run
from cassr_jax.sharding.times import Links, work_seconds

_DEVICE_LINE = "XLA Ops"  # a TPU's own record of operations; other lines of a TPU repeat it in other words


@dataclass(frozen=True)
class Operation:
    """All instructions of one kind that came from the same line of Python, in one call on one device.

    Attributes:
        kind: their name in HLO.
        source: the line, "file:line"; empty if the compiler made them.
        count: how often they ran.
        seconds: measured, without those of instructions within them.
        predicted: by the rates of the chip; None if it is not known.
    """

    kind: str
    source: str
    count: float
    seconds: float
    predicted: float | None


@dataclass(frozen=True)
class Measured:
    """What calls of a program took.

    Attributes:
        calls: how many were timed.
        seconds: of one call, their mean.
        memory: the most that one device held, in bytes; None if the devices do not tell.
        operations: of one call, those that took longest first.
    """

    calls: int
    seconds: float
    memory: int | None
    operations: tuple[Operation, ...]


def operations(folder: Path, module: Module, mesh: Mesh, calls: int, chip: Chip | None) -> tuple[Operation, ...]:
    """The operations of a program in a trace.

    Args:
        folder: where JAX's profiler wrote the trace of `calls` calls.
    """
    links = Links(mesh, chip)
    runs = {run.instruction.name: run for run in module.runs()}
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for name, seconds in _events(folder):
        if (run := runs.get(name)) is None:
            continue
        total = sums[run.instruction.opcode, module.source(run.instruction)]
        expected = 0.0 if chip is None else _predicted(module, run, links, chip)
        for place, value in enumerate((1, seconds, expected)):
            total[place] += value / (calls * mesh.size)
    found = [
        Operation(*key, count, seconds, None if chip is None else expected)
        for key, (count, seconds, expected) in sums.items()
    ]
    return tuple(sorted(found, key=lambda operation: -operation.seconds))


def _predicted(module: Module, run: Run, links: Links, chip: Chip) -> float:
    """The seconds of one run of an instruction."""
    found = collective(module, run, links.sizes)
    return work_seconds(work(module, run), chip) if found is None else links.seconds(found)


def _events(folder: Path) -> Iterator[tuple[str, float]]:
    """The name and the own seconds of every operation that a device or the processor in its place ran."""
    for file in folder.rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(file)).planes:
            lines = list(plane.lines)
            own = [line for line in lines if line.name == _DEVICE_LINE] or lines
            for line in own:
                yield from _own_seconds([event for event in line.events if _name(event, line.name)], line.name)


def _name(event: Any, line: str) -> str:
    """The instruction that an event is the run of; empty if it is something else."""
    if line == _DEVICE_LINE:  # the event is named by the instruction's whole text
        return event.name.partition(" = ")[0].lstrip("%")
    return str(dict(event.stats).get("hlo_op", ""))


def _own_seconds(events: Sequence[Any], line: str) -> Iterator[tuple[str, float]]:
    """The seconds of events on one line without those of the events within them."""
    within: list[tuple[float, list[float]]] = []  # the end of every event that is open, and its own time
    found: list[tuple[str, list[float]]] = []
    for event in sorted(events, key=lambda event: (event.start_ns, -event.duration_ns)):
        while within and within[-1][0] <= event.start_ns:
            within.pop()
        if within:
            within[-1][1][0] -= event.duration_ns
        own = [float(event.duration_ns)]
        within.append((event.start_ns + event.duration_ns, own))
        found.append((_name(event, line), own))
    return ((name, max(nanoseconds, 0.0) / 1e9) for name, (nanoseconds,) in found)
