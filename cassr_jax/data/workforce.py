"""How many threads and processes make records: as many as the host has cores for, unless the configuration says."""

import os

from cassr_jax.data.config import DataConfig

MOST_WORKERS = 32  # each holds a few batches
FEWEST_CORES = 4  # with fewer, threads do as well


def usable_cores() -> frozenset[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; a container or a batch system may have left it fewer than there are
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def workforce(config: DataConfig, cores: int) -> tuple[int, int]:
    """(worker processes, threads in each of them, or in this process if there are none).

    One core is left to the process that trains.

    Args:
        cores: those that this process may count on.
    """
    workers, threads = config.num_workers, config.num_threads
    if workers is None:
        workers = 0 if cores < FEWEST_CORES else min((cores - 1) // max(threads or 1, 1), MOST_WORKERS)
    if threads is None:
        threads = max((cores - 1) // workers, 1) if workers else max(cores, 2)
    return workers, threads
