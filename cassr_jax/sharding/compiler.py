"""A process that compiles for devices which need not be here."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax

from cassr_jax.errors import InputError, ran_out
from cassr_jax.sharding.child import Died, in_child
from cassr_jax.sharding.topologies import present_devices, topology_devices
from cassr_jax.typing import Device

T = TypeVar("T")

Effort = Literal["quick", "full"]
"""How hard the compiler tries: quick takes minutes where full takes tens of them."""


def compiling(on: str, effort: Effort, work: Callable[..., T], *args: object, here: bool = False) -> T:
    """Computes `work(devices, *args)` in a new process, which only compiles; all of it must be picklable.

    Args:
        on: the devices, such as "v5e:16x16" or "h200:8".
        here: whether they must be this machine's own, so that the process can run what it compiles.

    Raises:
        InputError: there are no such devices, or the compiler crashed.
        Exception: whatever else `work` raises.
    """
    try:
        return in_child(_compiling, on, effort, here, work, args)
    except Died as error:
        raise InputError(
            f"{on}: the compiler did not finish ({error}); expected devices that it knows, such as v5e:2x4 or "
            "h200:8, and enough memory"
        ) from error


def _compiling(on: str, effort: Effort, here: bool, work: Callable[[Sequence[Device]], T], args: Sequence[object]) -> T:
    simulated = on.startswith("cpu:")
    if simulated or not here:
        jax.config.update("jax_platforms", "cpu")  # libtpu only compiles here; JAX must not look for a TPU
    if effort == "quick":
        for setting in ("jax_optimization_level", "jax_memory_fitting_level"):
            jax.config.update(setting, "O0")
    return work(present_devices(on) if here and not simulated else topology_devices(on), *args)


def compiled(lowered: jax.stages.Lowered, what: str, advice: str) -> tuple[jax.stages.Compiled, str, Any]:
    """A program, its text, and what the compiler says of its memory (jaxlib's `CompiledMemoryStats`).

    Args:
        what: what it is and what it is for, for messages.
        advice: what would make it fit, after "expected".

    Raises:
        InputError: it does not fit into the memory of a device, or the compiler tells nothing of it.
    """
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not ran_out(error):
            raise
        reason = " ".join(str(error).split(". ")[0].split())[:300]
        raise InputError(f"{what} does not fit, expected {advice} ({reason})") from error
    text, memory = program.as_text(), program.memory_analysis()
    if text is None or memory is None:
        raise InputError(f"{what}: the compiler gives no account of its program, expected one for a TPU or a GPU")
    return program, text, memory
