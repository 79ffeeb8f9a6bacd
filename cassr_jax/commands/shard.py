"""One machine's part of the pictures that several machines restore."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

CLUSTER = "cluster"
"""The word for the part that the cluster's own number for this process gives it."""

# Variables in which a launcher tells a process its number, from 0, and how many there are: SLURM, Open MPI, torchrun.
_NUMBERS = (("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("RANK", "WORLD_SIZE"))
_TPU_NUMBER, _TPU_HOSTS = "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"  # on a TPU slice, the second is a list with commas


@dataclass(frozen=True)
class Shard:
    """Every `count`th item, from number `index` on, counted from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The `type` of an option that names a shard, such as 2/8: part 2 of 8, or `cluster`."""
        if text == CLUSTER:
            return cls.of_cluster(os.environ)
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise argparse.ArgumentTypeError(
                f"found {text!r}, expected I/N with I from 1 to N, such as 2/8, or {CLUSTER}"
            )
        return cls(int(index), int(count))

    @classmethod
    def of_cluster(cls, environment: Mapping[str, str]) -> "Shard":
        """The part of this process, by the number that its cluster gave it."""
        given = {names: [environment.get(name, "") for name in names] for names in _NUMBERS}
        hosts = [host for host in environment.get(_TPU_HOSTS, "").split(",") if host]
        given[_TPU_NUMBER, _TPU_HOSTS] = [environment.get(_TPU_NUMBER, ""), str(len(hosts))]
        for index, count in given.values():
            if index.isdecimal() and count.isdecimal() and int(index) < int(count):
                return cls(int(index) + 1, int(count))
        pairs = ", ".join(" and ".join(names) for names in given)
        raise argparse.ArgumentTypeError(
            f"found {CLUSTER!r} where no cluster has numbered the processes, expected I/N, or one of {pairs} to be set"
        )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """This part of the items."""
        return items[self.index - 1 :: self.count]
