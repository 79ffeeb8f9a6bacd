"""A process that compiles for devices which need not be here."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import jax

from cassr_jax.errors import InputError
from cassr_jax.sharding.child import Died, in_child
from cassr_jax.sharding.topologies import topology_devices
from cassr_jax.typing import Device

T = TypeVar("T")

Effort = Literal["quick", "full"]
"""How hard the compiler tries: quick takes minutes where full takes tens of them."""


def compiling(on: str, effort: Effort, work: Callable[..., T], *args: object) -> T:
    """Computes `work(devices, *args)` in a new process, which only compiles; all of it must be picklable.

    Args:
        on: the devices, such as "v5e:16x16" or "h200:8".

    Raises:
        InputError: there are no such devices, or the compiler crashed.
        Exception: whatever else `work` raises.
    """
    try:
        return in_child(_compiling, on, effort, work, args)
    except Died as error:
        raise InputError(
            f"{on}: the compiler did not finish ({error}); expected devices that it knows, such as v5e:2x4 or "
            "h200:8, and enough memory"
        ) from error


def _compiling(on: str, effort: Effort, work: Callable[[Sequence[Device]], T], args: Sequence[object]) -> T:
    jax.config.update("jax_platforms", "cpu")  # libtpu only compiles here; JAX must not look for a TPU
    if effort == "quick":
        for setting in ("jax_optimization_level", "jax_memory_fitting_level"):
            jax.config.update(setting, "O0")
    return work(topology_devices(on), *args)
