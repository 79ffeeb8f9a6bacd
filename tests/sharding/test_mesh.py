"""Processes that find each other, and what they are told where they do not."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

import train
from cassr_jax.errors import InputError
from cassr_jax.sharding.mesh import join_processes, local_devices, make_mesh
from cassr_jax.sharding.strategies import MeshConfig

ROOT = Path(train.__file__).parent
# One process of a Slurm step, told each of the words in turn which GPUs are its own; prints the ones that JAX will use.
SLURM = """
import sys
import jax, train
from jax._src import xla_bridge
from cassr_jax.sharding.mesh import join_processes

for word in sys.argv[1:]:
    given = ["--local-devices", word] * (word != "-")
    arguments = train.parse(["--config", "C", "--workdir", "W", "--distributed", *given])
    jax.config.update("jax_cuda_visible_devices", "all")
    join_processes(arguments.distributed, devices=arguments.local_devices)
    print(xla_bridge.CUDA_VISIBLE_DEVICES.value)
    jax.distributed.shutdown()
"""


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("localhost", "1 words"),
        ("localhost 2 0", "localhost names no port"),
        (":1234 2 0", ":1234 names no port"),
        ("localhost:http 2 0", "localhost:http names no port"),
        ("localhost:123456 2 0", "localhost:123456 names no port"),
        ("localhost:1234 two 0", "there is no process 0 of two"),
        ("localhost:1234 2 2", "there is no process 2 of 2"),
        ("localhost:1234 2 -1", "there is no process -1 of 2"),
    ],
)
def test_an_address_that_is_none_is_one_sentence(monkeypatch, where, reason):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("it was taken for one"))
    with pytest.raises(InputError) as error:
        join_processes(where.split())
    assert str(error.value) == f"--distributed: {where} does not work, expected HOST:PORT N I ({reason})"


def test_no_cluster_is_one_sentence(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")  # as JAX does once it has looked for a cluster

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(InputError) as error:
        join_processes([])
    assert str(error.value) == (
        "--distributed: found no cluster (TPU pod, Slurm, MPI) that tells this process where the others are, expected "
        "one, or HOST:PORT N I after the option"
    )


@pytest.mark.parametrize("number", ["0", "1"])
def test_a_process_that_never_comes_is_one_sentence(number, tmp_path):
    """Waited for by the first process, and by the second."""
    with socket.create_server(("localhost", 0)) as server:
        free_port = server.getsockname()[1]
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "train.py", "--config", "configs/smoke.py", "--workdir", str(tmp_path / "run")),
            *("--distributed", f"localhost:{free_port}", "2", number, "--join-timeout", "1"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert time.monotonic() - began < 60
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "train.py: --distributed: not all processes came within 1 s, expected one with each number; start them all, or "
        "give them more time with --join-timeout\n"
    )
    assert not (tmp_path / "run").exists()


def test_slurm_gives_a_process_one_gpu_unless_it_is_told_otherwise():
    """The step has one process, which is the third of its node, so that JAX's own choice is none of the others."""
    names = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
    values = ("1", "0", "2", str(os.getpid()), "localhost")
    environment = os.environ | dict(zip(names, values, strict=True))
    command = [sys.executable, "-c", SLURM, "-", "all", "0,1,5"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["2", "all", "0,1,5"], done.stderr


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("0,one", "'0,one', expected all, or the numbers of GPUs such as 0,1,2,3"),
        ("1,1", "'1,1', expected all, or the numbers of GPUs such as 0,1,2,3"),
        ("", "'', expected all, or the numbers of GPUs such as 0,1,2,3"),
    ],
)
def test_devices_that_have_no_number_are_one_sentence(word, reason, capsys):
    with pytest.raises(SystemExit):
        train.parse(["--config", "C", "--workdir", "W", "--distributed", "--local-devices", word])
    assert capsys.readouterr().err.endswith(f"argument --local-devices: {reason}\n")


def test_devices_of_one_process_alone_are_refused(capsys):
    with pytest.raises(SystemExit):
        train.parse(["--config", "C", "--workdir", "W", "--local-devices", "all"])
    assert "--local-devices is for one of several processes, expected --distributed" in capsys.readouterr().err


def test_the_only_device_is_called_so(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    with pytest.raises(InputError, match="devices is 3, expected 1, the only one"):
        local_devices(3)


@dataclass(frozen=True)
class Chip:
    """A chip of a single slice, as `jax.experimental.topologies` shows it."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0
    process_index: int = 0


@dataclass(frozen=True)
class ChipOfOne(Chip):
    """A chip of one of several slices."""

    slice_index: int = 0


def chips(slices: int) -> list[ChipOfOne]:
    """Slices of 2x2 chips, whose chips come in turns."""
    places = [(x, y, 0) for x in range(2) for y in range(2)]
    numbered = [(number, i, place) for i, place in enumerate(places) for number in range(slices)]
    return [ChipOfOne(4 * number + i, place, slice_index=number) for number, i, place in numbered]


@pytest.mark.parametrize("config", [MeshConfig(data=2, fsdp=4), MeshConfig(data=1, fsdp=8), MeshConfig(data=4, fsdp=2)])
def test_slices_lie_one_after_the_other(config):
    found = [each.slice_index for each in make_mesh(config, chips(2)).devices.flat]
    assert found == [0] * 4 + [1] * 4


def test_a_single_slice_need_not_say_its_number():
    whole = [Chip(chip.id, chip.coords) for chip in chips(1)]
    assert make_mesh(MeshConfig(data=2, fsdp=2), whole).devices.size == 4


def test_slices_that_do_not_divide_the_first_axis_are_refused():
    with pytest.raises(InputError, match=r"strategy\.mesh\.data is 4, expected a multiple of the 3 slices"):
        make_mesh(MeshConfig(data=4, fsdp=3), chips(3))
    with pytest.raises(InputError, match="takes 6 devices, expected those of whole slices"):
        make_mesh(MeshConfig(data=6, fsdp=1), sorted(chips(2), key=lambda chip: chip.slice_index))
