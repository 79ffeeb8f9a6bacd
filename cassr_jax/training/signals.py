"""Being asked to stop: a preempted machine sends SIGTERM and leaves some seconds."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils


@contextmanager
def watch_sigterm() -> Iterator[Callable[[int], bool]]:
    """Gives `asked(step)`: whether the run is to save and stop after `step` steps.

    Several processes have to stop after the same step; `jax.distributed` watches for the signal and agrees on one.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda step: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
