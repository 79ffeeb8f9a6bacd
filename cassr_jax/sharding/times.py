"""How long a compiled program takes, reckoned from its costs and the published rates of a chip.

Collectives follow the usual formulas of rings (jax-ml.github.io/scaling-book, "sharded matrices"): of an array of V
bytes in a group of n devices, an all-gather or a reduce-scatter sends V (n - 1) / n through the links of a device, an
all-reduce twice as much. A TPU's ring uses a link to both sides where the torus closes, and all dimensions over which
the group extends. Between the hosts of a cluster of GPUs, each of them has its own card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cassr_jax.sharding.chips import Chip
from cassr_jax.sharding.costs import SLICES, Collective, Work
from cassr_jax.sharding.mesh import by_slice, slice_axis
from cassr_jax.typing import Device

_WHOLE = {2: 16, 3: 4}  # in two dimensions a side of this length closes, in three a slice of cubes with this side


@dataclass(frozen=True)
class Reach:
    """How the devices of a group are joined.

    Attributes:
        rings: within a host or slice, for each dimension of the torus over which the group extends, its devices along
            the dimension and the links over which a device sends along it. GPUs behind a switch have one dimension.
        hosts: over how many hosts of GPUs, or slices of TPUs, the group extends.
        each: its devices on each of them.
    """

    rings: tuple[tuple[int, float], ...]
    hosts: int
    each: int

    @property
    def links(self) -> float:
        """The number of links over which a device sends at once, within its host or slice."""
        return sum(links for _, links in self.rings) or 1.0


class Links:
    """What joins the devices of a mesh.

    Attributes:
        sizes: those of the mesh by axis; of a mesh over several TPU slices, those of the part in one of them, for which
            a program is compiled.
    """

    def __init__(self, mesh: Mesh, chip: Chip | None):
        slices = len(by_slice(list(mesh.devices.flat)))
        own = np.split(mesh.devices, slices, slice_axis(mesh.devices.shape))[0]
        self.sizes = dict(zip(mesh.axis_names, own.shape, strict=True))
        self._devices, self._slices, self._chip = list(own.flat), slices, chip
        self._reach = cache(self._reach_of)  # a program has thousands of calls among a few groups

    def seconds(self, found: Collective) -> float:
        """The seconds of one call of a collective; 0 if the rates are not known."""
        if self._chip is None:
            return 0.0
        across = found.axes == (SLICES,)
        joined = Reach(((1, 1.0),), self._slices, 1) if across else self._reach(found.members)
        return collective_seconds(found, joined, self._chip)

    def _reach_of(self, members: tuple[int, ...]) -> Reach:
        assert self._chip is not None, "only rates ask for it"
        return reach([self._devices[member] for member in members], self._devices, self._chip)


def reach(group: Sequence[Device], whole: Sequence[Device], chip: Chip) -> Reach:
    """How the devices of a group are joined, where all groups that lie alike send at once.

    Args:
        whole: all devices of the slice.
    """
    if not chip.dimensions:
        hosts = len({device.process_index for device in group})
        return Reach(((len(group) // hosts, 1.0),), hosts, len(group) // hosts)
    places = np.asarray([_coordinates(device) for device in group])
    sides = [len({_coordinates(device)[axis] for device in whole}) for axis in range(places.shape[1])]
    rings = []
    for axis, side in enumerate(sides):
        taken = sorted(set(places[:, axis].tolist()))
        if len(taken) > 1:
            # Groups between whose devices others lie share the links with the groups of these.
            apart = (taken[-1] - taken[0]) // (len(taken) - 1)
            rings.append((len(taken), (2.0 if len(taken) == side and closes(side, sides, chip) else 1.0) / apart))
    return Reach(tuple(rings), 1, len(group))


def closes(side: int, sides: Sequence[int], chip: Chip) -> bool:
    """Whether a side of a TPU slice is a ring and not a row."""
    unit = _WHOLE[chip.dimensions]
    return side % unit == 0 and (chip.dimensions == 2 or all(each % unit == 0 for each in sides))


def _coordinates(device: Any) -> tuple[int, ...]:
    return tuple(device.coords)


def collective_seconds(found: Collective, joined: Reach, chip: Chip) -> float:
    """The seconds of one call."""
    count = found.group
    if count == 1:
        return 0.0
    if found.kind == "collective-permute":
        return found.nbytes / (chip.network if joined.hosts > 1 else chip.link)
    if found.kind in ("all-to-all", "ragged-all-to-all"):
        return _all_to_all_seconds(found.nbytes, joined, chip)
    return ring_seconds(found.kind, found.nbytes, joined, chip)


def _all_to_all_seconds(nbytes: float, joined: Reach, chip: Chip) -> float:
    """The seconds in which each device of a group sends its array of `nbytes`, a part to each of the others."""
    count = joined.hosts * joined.each
    between = nbytes * (count - joined.each) / count / chip.network
    if not chip.dimensions or joined.hosts > 1:
        return max(between, nbytes * (joined.each - 1) / count / chip.link)
    # Across the middle of a dimension goes a quarter of all that its ring holds, over the links of one cut.
    return max(nbytes * side / (4 * chip.link * links) for side, links in joined.rings)


def ring_seconds(kind: str, nbytes: float, joined: Reach, chip: Chip) -> float:
    """The seconds of an all-gather, a reduce-scatter or an all-reduce of an array of `nbytes`, by rings."""
    within = nbytes * (joined.each - 1) / joined.each / (chip.link * joined.links)
    between = nbytes * (joined.hosts - 1) / joined.hosts / (joined.each * chip.network)
    return (2.0 if kind == "all-reduce" else 1.0) * max(within, between)


def work_seconds(work: Work, chip: Chip) -> float:
    """The seconds of one instruction: of its products or of its memory, whichever takes longer."""
    return max(work.flops / (chip.flops_float32 if work.float32 else chip.flops), work.nbytes / chip.bandwidth)


@dataclass(frozen=True)
class Times:
    """Seconds of one call of a program on one device.

    Attributes:
        products: at the chip's peak.
        memory: at its full bandwidth.
        work: of all instructions, each of them limited by its products or its memory.
        collectives: of all of them, one after the other.
        hidden: what of them other work covers in the compiled schedule.
    """

    products: float
    memory: float
    work: float
    collectives: float
    hidden: float

    @property
    def least(self) -> float:
        """If everything ran beside everything else."""
        return max(self.products, self.memory, self.collectives)

    @property
    def most(self) -> float:
        """If nothing ran beside anything else."""
        return self.work + self.collectives

    @property
    def guess(self) -> float:
        """As the program is scheduled."""
        return self.work + self.collectives - self.hidden

    @property
    def exposed(self) -> float:
        """The share of the guess in which a device only waits for others."""
        return (self.collectives - self.hidden) / self.guess if self.guess else 0.0
