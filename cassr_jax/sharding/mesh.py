"""Devices: those of this process, those of all processes, and a mesh of them."""

import math
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from cassr_jax.errors import InputError, Stopped
from cassr_jax.printing import complain
from cassr_jax.sharding.strategies import AXES, MeshConfig
from cassr_jax.typing import Device

HEARTBEAT = 60  # s without a sign of life after which a process counts as dead, and JAX ends the others
_FAREWELL = 10  # s in which the others end as well if they have met the same error
_GRACE = 60  # s; JAX aborts the whole process when its own time is over, so the caller should end it before that


def join_processes(where: Sequence[str], timeout: int = 300, devices: Sequence[int] | None = None) -> None:
    """Make this process one of several that see each other's devices. Call it before anything is computed.

    Args:
        where: empty if the cluster tells JAX; else the address HOST:PORT of process 0, the number of processes, and the
            number of this one.
        timeout: seconds after which the caller ends this process if the others have not joined.
        devices: the numbers of this process's GPUs among those that it can see; empty for all of them. None leaves it
            to JAX, which gives a process of Slurm or MPI the one GPU of its own number on the host, and others all.

    Raises:
        InputError: `where` is neither, no cluster is found, or the other processes cannot be.
    """
    try:
        address, count, index = _address(where) if where else (None, None, None)
        # JAX looks for the cluster's choice only where it is given None; it restricts nothing where it is given none.
        jax.distributed.initialize(
            address, count, index, devices, initialization_timeout=timeout + _GRACE, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (ValueError, RuntimeError) as error:
        if not where and isinstance(error, ValueError):  # JAX has asked every kind of cluster that it knows
            raise InputError(
                "--distributed: found no cluster (TPU pod, Slurm, MPI) that tells this process where the others are, "
                "expected one, or HOST:PORT N I after the option"
            ) from error
        found = " ".join(where) or "what the cluster says"
        reason = " ".join(str(error).split())
        raise InputError(f"--distributed: {found} does not work, expected HOST:PORT N I ({reason})") from error


@contextmanager
def ending_alone(name: str) -> Iterator[None]:
    """A block in which a process that fails, while the others do not, ends at once.

    Otherwise it would wait for them, as every process does at its end, and they for its part of a computation. An error
    that all of them meet leaves the block as usual.

    Args:
        name: the word with which the lines on stderr begin.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if jax.process_count() == 1 or _met_by_all():
            raise
        refused = isinstance(error, InputError)
        if refused:
            complain(error, name)
        elif isinstance(error, jax.errors.JaxRuntimeError):
            reason = " ".join(str(error).split())[:300]
            complain(
                f"a computation of all processes has failed, most likely because another one has died: see what that "
                f"one says; the same command goes on from the last checkpoint ({reason})",
                name,
            )
        else:
            traceback.print_exc()
        complain(f"this process ends alone, and the others within {HEARTBEAT} s", name)
        os._exit(2 if refused else 1)


def _met_by_all() -> bool:
    """Whether all processes come here within a few seconds."""
    client = distributed.global_state.client
    if client is None:
        return True
    try:
        client.wait_at_barrier("cassr_jax: failed", timeout_in_ms=_FAREWELL * 1000)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _address(where: Sequence[str]) -> tuple[str, int, int]:
    """HOST:PORT N I as the first arguments of `jax.distributed.initialize`.

    Raises:
        ValueError: it is not of that form.
    """
    if len(where) != 3:
        raise ValueError(f"{len(where)} words")
    address, count, index = where
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"{address} names no port")
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise ValueError(f"there is no process {index} of {count}")
    return address, int(count), int(index)


def local_devices(count: int | None) -> list[Device]:
    """The first `count` devices of this process; by default all accelerators, or one CPU.

    Raises:
        InputError: there are fewer.
    """
    present = jax.local_devices()
    if count is None:
        count = 1 if present[0].platform == "cpu" else len(present)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(present):
        allowed = "1, the only one" if len(present) == 1 else f"1 to {len(present)}, as many as there are"
        raise InputError(f"devices is {count!r}, expected {allowed}")
    return present[:count]


def make_mesh(config: MeshConfig, devices: Sequence[Device] | None = None) -> Mesh:
    """Make the mesh of `config` over `devices`, by default all of them, in an order that suits their interconnect.

    If every size is given and there are more devices, the first ones are used. Several TPU slices lie one after the
    other along the first axis of more than one device.

    Raises:
        InputError: the number of devices does not fit the sizes, or the slices do not divide the first axis.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {axis: getattr(config, axis) for axis in AXES}
    given = math.prod(size for size in sizes.values() if size != -1)
    if given > len(devices) or (-1 in sizes.values() and len(devices) % given):
        asked = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise InputError(f"strategy.mesh is {asked}, which does not divide the {len(devices)} devices found")
    shape = [len(devices) // given if size == -1 else size for size in sizes.values()]
    used = devices[: math.prod(shape)]
    parts = by_slice(used)
    first = slice_axis(shape)
    if len({len(part) for part in parts}) > 1:
        raise InputError(f"strategy.mesh takes {len(used)} devices, expected those of whole slices")
    if shape[first] % len(parts):
        raise InputError(
            f"strategy.mesh.{AXES[first]} is {shape[first]}, expected a multiple of the {len(parts)} slices"
        )
    shape[first] //= len(parts)
    arranged = [mesh_utils.create_device_mesh(shape, part, allow_split_physical_axes=True) for part in parts]
    return Mesh(np.concatenate(arranged, first), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def by_slice(devices: Sequence[Device]) -> list[list[Device]]:
    """The devices of each TPU slice; all others together are one, and so are those that were compiled for alone."""
    found: dict[int, list[Device]] = {}
    for device in devices:
        found.setdefault(getattr(device, "slice_index", 0) if device.platform == "tpu" else 0, []).append(device)
    return list(found.values())


def slice_axis(shape: Sequence[int]) -> int:
    """The axis of a mesh of this shape along which slices lie one after the other."""
    return next((axis for axis, size in enumerate(shape) if size > 1), 0)
