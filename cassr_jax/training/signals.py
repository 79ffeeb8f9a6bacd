"""Signals that ask a run to stop, from a preempted machine, a closed terminal or a person."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def watch_signals() -> Iterator[Callable[[int], bool]]:
    """A block that gives `asked(step)`, whether the run should save and stop after `step` steps.

    A second SIGINT raises KeyboardInterrupt at once. An ignored signal, like SIGHUP under `nohup`, stays ignored.
    Several processes must stop after the same step; `jax.distributed` watches SIGTERM and agrees on one.
    """
    together = jax.process_count() > 1
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)
        if together:
            os.kill(os.getpid(), signal.SIGTERM)

    own = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {n: signal.signal(n, note) for n in own if not (together and n == signal.SIGTERM)}
    try:
        yield multihost_utils.reached_preemption_sync_point if together else lambda step: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
