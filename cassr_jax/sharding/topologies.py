"""Devices that are not here, for which programs can be compiled: TPU slices, servers of GPUs, and simulated CPUs."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import jax
from jax.experimental import topologies

from cassr_jax.errors import InputError
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.typing import Device


class GPU(NamedTuple):
    """What XLA's compiler reads about a GPU: NVIDIA's published figures, and the memory that its driver reports.

    Attributes:
        major, minor: the compute capability.
        cores: streaming multiprocessors.
        memory, bandwidth, cache: bytes, bytes per second, and bytes of the second-level cache.
        clock: GHz.
        shared: bytes of shared memory for each multiprocessor.
    """

    name: str
    major: int
    minor: int
    cores: int
    memory: int
    bandwidth: int
    cache: int
    clock: float
    shared: int


GPUS = {
    "a100": GPU("NVIDIA A100-SXM4-80GB", 8, 0, 108, 85_000_000_000, 2_039_000_000_000, 41_943_040, 1.41, 167_936),
    "h100": GPU("NVIDIA H100 80GB HBM3", 9, 0, 132, 85_000_000_000, 3_350_000_000_000, 52_428_800, 1.98, 233_472),
    "h200": GPU("NVIDIA H200", 9, 0, 132, 150_000_000_000, 4_800_000_000_000, 62_914_560, 1.98, 233_472),
}
_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared}  threads_per_core_limit: 2048  core_count: {gpu.cores}  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth}  l2_cache_size: {gpu.cache}  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}  shared_memory_per_block_optin: {optin}
  cuda_compute_capability {{ major: {gpu.major} minor: {gpu.minor} }}
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{gpu.name}"
"""


# The usual sides of a slice of so many chips: two dimensions for v5e and v6e, three for v4, v5p and TPU7x.
_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_SOLID = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
_PER_HOST = 8  # GPUs
_COMPILED = (*GPUS, *(name for name, chip in CHIPS.items() if chip.dimensions), "cpu")


def slice_of(kind: str, count: int) -> str:
    """The name of so many devices of a kind: a TPU slice such as "v5e:4x8", or GPUs in hosts of 8.

    Raises:
        InputError: there is no slice of that size.
    """
    if kind in GPUS:
        if count <= _PER_HOST:
            return f"{kind}:{count}"
        if count % _PER_HOST:
            raise InputError(f"{kind}: found {count} GPUs, expected a multiple of the {_PER_HOST} in a host")
        return f"{kind}:{count // _PER_HOST}x{_PER_HOST}"
    if kind == "cpu":
        return f"cpu:{count}"
    if kind not in CHIPS or not CHIPS[kind].dimensions:
        raise InputError(f"{kind}: nothing can be compiled for it here, expected {', '.join(_COMPILED)}")
    sides = _FLAT if CHIPS[kind].dimensions == 2 else _SOLID
    if count not in sides:
        raise InputError(f"{kind}: no slice of {count} chips is known, expected {', '.join(map(str, sides))}")
    return f"{kind}:{sides[count]}"


def sides_of(name: str) -> tuple[list[int], int]:
    """The sides of a slice, or hosts x GPUs, and the number of slices: `v5e:16x16@2` are two slices of 256 chips.

    Raises:
        InputError: the name has another form.
    """
    size, marked, count = name.partition(":")[2].partition("@")
    sides = size.split("x")
    slices = [count] if marked else []
    if (marked and name.partition(":")[0] in GPUS) or not all(
        len(side) < 6 and side.isdecimal() and int(side) for side in (*sides, *slices)
    ):
        raise InputError(f"{name}: found the size {size + marked + count!r}, expected one such as 2x4, or 2x4@2")
    return list(map(int, sides)), int(count or 1)


def topology_devices(name: str) -> Sequence[Device]:
    """The devices of a TPU slice such as `v5e:2x4`, or of GPUs such as `h200:8` or `h100:4x8` (hosts x GPUs).

    `v5e:2x4@2` are two such slices, which the network of their data centre joins.

    This needs no such device: TPUs need the package libtpu, and GPUs JAX's plug-in for CUDA. `cpu:8` are eight devices
    that this machine's processor simulates, in a process that has computed nothing yet.

    Raises:
        InputError: the compiler is not installed, or does not know the devices.
    """
    kind, _, size = name.partition(":")
    if kind == "cpu":
        return _simulated(name, size)
    if kind not in _COMPILED:
        raise InputError(f"{name}: nothing can be compiled for {kind} here, expected {', '.join(_COMPILED)}")
    return _gpus(name, GPUS[kind], size) if kind in GPUS else _slice(name)


def present_devices(name: str) -> Sequence[Device]:
    """The devices of this machine, which must be those that `name` means.

    Raises:
        InputError: they are of another kind, or there is another number of them.
    """
    kind = name.partition(":")[0]
    found, (sides, slices) = jax.devices(), sides_of(name)
    cores = 2 if kind == "tpu7x" else 1  # devices that are a chip
    count = cores * math.prod(sides) * slices
    if kind not in CHIPS or found[0].device_kind not in CHIPS[kind].kinds or len(found) != count:
        raise InputError(
            f"{name}: found {len(found)} x {found[0].device_kind} here, expected these very devices: --measure runs on "
            "them; cpu:8 simulates eight anywhere"
        )
    return found


def _slice(name: str) -> Sequence[Device]:
    # libtpu reads these when it is loaded: do not ask a metadata server, ignore the locks of other processes.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(variable, value)
    one, marked, slices = name.partition("@")
    if marked:
        sides_of(name)
    # A chip of v4 has two cores, which JAX uses as one device. Eight chips of v5e or v6e are those of a single host.
    kind, _, size = one.partition(":")
    settings: dict[str, object] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if kind in ("v5e", "v6e") and size == "2x4":
        settings["chips_per_host_bounds"] = [2, 4, 1]
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=one, num_slices=int(slices or 1), **settings
        ).devices
    except Exception as error:  # some of libtpu's exceptions have no other base class
        raise InputError(
            f"{name}: no TPU slice that can be compiled for, expected one such as v5e:2x4 and the extra `tpu`, or GPUs "
            f"such as h200:8 or h100:4x8 ({str(error).splitlines()[0]})"
        ) from error


def _simulated(name: str, size: str) -> Sequence[Device]:
    if len(size) > 5 or not size.isdecimal() or not int(size):
        raise InputError(f"{name}: found the size {size!r}, expected a number of simulated devices, such as cpu:8")
    count = int(size)
    with suppress(RuntimeError):  # JAX has its devices already; if there are enough, that is no harm
        jax.config.update("jax_num_cpu_devices", count)
    if count > len(jax.devices("cpu")):
        raise InputError(f"{name}: found {len(jax.devices('cpu'))} devices, expected {count}")
    return jax.devices("cpu")[:count]


def _gpus(name: str, gpu: GPU, size: str) -> Sequence[Device]:
    counts = size.split("x")
    if len(counts) > 2 or not all(count.isdecimal() and int(count) for count in counts):
        raise InputError(f"{name}: found the size {size!r}, expected GPUs or hosts x GPUs, such as h200:8 or h100:4x8")
    hosts, count = counts if len(counts) == 2 else ("1", size)
    described = _DESCRIPTION.format(gpu=gpu, optin=gpu.shared - 1024, fpus=128 if gpu.major >= 9 else 64)
    try:
        return topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=described, topology=f"1x{hosts}x{count}"
        ).devices
    except Exception as error:  # an absent plug-in raises a plain RuntimeError
        raise InputError(
            f"{name}: GPUs cannot be compiled for, expected the extra `plan-gpu` ({str(error).splitlines()[0]})"
        ) from error
