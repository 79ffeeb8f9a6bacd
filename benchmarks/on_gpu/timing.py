"""Times and memory of functions on a device; compilation is always apart."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax

from cassr_jax.sharding.chips import PEAK_FLOPS

Figures = dict[str, Any]
"""What was measured, in JSON's own types. `times` holds what `timed` gives for each thing, and how it was compiled."""

_LEAST = 0.1  # s; a run of quicker calls consists of several, which are waited for once
_MOST_CALLS = 100
_ENOUGH = 5.0  # s; after so long no more runs are begun, but there are always two
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Compiled(NamedTuple):
    """A compiled function, and what its compilation took.

    Attributes:
        run: takes the arguments that it was compiled for.
        figures: the seconds to trace and to compile, whether it was read from JAX's cache instead, and the bytes of
            arguments, results and temporary arrays together.
    """

    run: jax.stages.Compiled
    figures: Figures


def compiled(jitted: jax.stages.Wrapped, *arguments: object) -> Compiled:
    """Compiles a jitted function for arguments, without running it."""
    begun, hits = time.perf_counter(), len(_hits())
    lowered = jitted.lower(*arguments)
    traced = time.perf_counter()
    run = lowered.compile()
    figures: Figures = {
        "trace_seconds": traced - begun,
        "compile_seconds": time.perf_counter() - traced,
        "read_from_cache": len(_hits()) > hits,
    }
    if memory := run.memory_analysis():
        sizes = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        figures["compiled_bytes"] = sizes - memory.alias_size_in_bytes
    return Compiled(run, figures)


@cache
def _hits() -> list[str]:
    """Grows by one with each function that is read from JAX's cache of compiled ones."""
    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event == _CACHE_HIT else None)
    return hits


def timed(call: Callable[[], object], runs: int, wait: Callable[[Any], object] = jax.block_until_ready) -> Figures:
    """The `summary` of some runs of a function, and the seconds of its first call, which does not count.

    Args:
        call: starts the work and returns its result, which may be computed later.
        runs: the number of runs; fewer if they take long.
        wait: returns when a result is computed.
    """

    def run(calls: int) -> float:
        begun, made = time.perf_counter(), None
        for _ in range(calls):
            made = call()
        wait(made)
        return time.perf_counter() - begun

    hits = len(_hits())
    first, cached = run(1), len(_hits()) > hits
    once = run(1)
    calls = min(max(math.ceil(_LEAST / once), 1), _MOST_CALLS)
    seconds = [once] if calls == 1 else []
    while len(seconds) < 2 or (len(seconds) < runs and sum(seconds) * calls < _ENOUGH):
        seconds.append(run(calls) / calls)
    return summary(seconds, calls) | {"first_seconds": first, "read_from_cache": cached}


def summary(seconds: Sequence[float], calls: int = 1) -> Figures:
    """The median of the seconds of several runs, and the standard error of their mean, unknown for a single one."""
    error = statistics.stdev(seconds) / math.sqrt(len(seconds)) if len(seconds) > 1 else None
    return {"seconds": statistics.median(seconds), "error": error, "runs": len(seconds), "calls_a_run": calls}


def rates(timing: Figures, batch: int, flops: float, device_kind: str) -> Figures:
    """Examples per second, and the share of the device's peak of FLOP/s, which is left out where none is known."""
    seconds, peak = timing["seconds"], PEAK_FLOPS.get(device_kind)
    found: Figures = {"examples_per_second": batch / seconds, "flops": flops}
    return found if peak is None else found | {"flop_utilisation": flops / seconds / peak}


def peak_bytes() -> int | None:
    """The most bytes that arrays held on the device since this process began; None where JAX does not count them."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
