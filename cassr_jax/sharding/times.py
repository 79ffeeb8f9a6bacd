"""How long a compiled program takes, reckoned from its costs and the published rates of a chip.

Collectives follow the usual formulas of rings (jax-ml.github.io/scaling-book, "sharded matrices"): of an array of V
bytes in a group of n devices, an all-gather or a reduce-scatter sends V (n - 1) / n through the links of a device, an
all-reduce twice as much. A TPU's ring uses a link to both sides where the torus closes, and all dimensions over which
the group extends. Between the hosts of a cluster of GPUs, each of them has its own card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cassr_jax.sharding.chips import Chip
from cassr_jax.sharding.costs import Collective, Work
from cassr_jax.typing import Device

_CLOSED = {2: 16, 3: 4}  # a side of so many chips, or of a multiple in three dimensions, is a ring and not a row


@dataclass(frozen=True)
class Reach:
    """How the devices of a group are joined.

    Attributes:
        links: the number of links over which a device sends at once, within its host or slice.
        hosts: over how many hosts of GPUs, or slices of TPUs, the group extends.
        each: its devices on each of them.
    """

    links: float
    hosts: int
    each: int


def reach(devices: np.ndarray, names: Sequence[str], axes: Sequence[str], chip: Chip) -> Reach:
    """How the devices of a mesh's groups along some axes are joined.

    Args:
        devices: the mesh's devices, an array with one dimension for each of `names`.
    """
    chosen = tuple(slice(None) if name in axes else 0 for name in names)
    group: list[Device] = list(np.atleast_1d(devices[chosen]).flat)
    homes = [getattr(each, "slice_index", 0) if chip.dimensions else each.process_index for each in group]
    hosts = len(set(homes))
    if not chip.dimensions:
        return Reach(1.0, hosts, len(group) // hosts)
    places = np.asarray([_coordinates(each) for each, home in zip(group, homes, strict=True) if home == homes[0]])
    whole = np.asarray([_coordinates(each) for each in devices.flat])
    links = 0.0
    for dimension in range(places.shape[1]):
        length = len(set(places[:, dimension].tolist()))
        if length > 1:
            closed = length == len(set(whole[:, dimension].tolist())) and length % _CLOSED[chip.dimensions] == 0
            links += 2.0 if closed else 1.0
    return Reach(max(links, 1.0), hosts, len(group) // hosts)


def _coordinates(device: Any) -> tuple[int, ...]:
    return tuple(device.coords)


def collective_seconds(found: Collective, joined: Reach, chip: Chip) -> float:
    """The seconds of one call."""
    count = found.group
    if count == 1:
        return 0.0
    inside = chip.link * joined.links
    if found.kind == "collective-permute":
        return found.nbytes / (chip.network if joined.hosts > 1 else chip.link)
    if found.kind in ("all-to-all", "ragged-all-to-all") and chip.dimensions and joined.hosts == 1:
        # On a ring each part goes a quarter of the way round on average; the group's whole array is n parts.
        return found.nbytes * count / (4 * inside)
    return ring_seconds(found.kind, found.nbytes, joined, chip)


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
