"""Two processes with two devices each, joined over the loopback: the run of one process with four devices."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train
from cassr_jax.config_files import read_config
from cassr_jax.locks import claimed
from cassr_jax.sharding.mesh import HEARTBEAT
from tests.training.runs import restore, write_pictures, write_vae_run

ROOT = Path(train.__file__).parent
CHANGES = ("data.crop_size=16", "optimizer.learning_rate=1e-3", "batch_size=8", "save_every=5")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_vae_run(tmp_path_factory.mktemp("processes"))


def start(
    config: Path,
    strategy: str,
    run: str,
    steps: int,
    devices: int,
    *distributed: str,
    changes: tuple[str, ...] = (),
    taken_up_by: str | None = None,
) -> subprocess.Popen:
    workdir = config.parent / strategy / run
    command = [sys.executable, "train.py", "--config", config, "--workdir", workdir, "--steps", str(steps)]
    command += ["--strategy", taken_up_by or strategy, "--set", *CHANGES, *changes]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags}
    arguments = ["--distributed", *distributed] if distributed else []
    return subprocess.Popen(
        [*map(str, command), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen) -> list[str]:
    ended = [process.communicate(timeout=600) for process in processes]
    for process, (_, error) in zip(processes, ended, strict=True):
        assert process.returncode == 0, error
    return [out for out, _ in ended]


def free_address() -> str:
    with socket.create_server(("localhost", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


def refusals(*processes: subprocess.Popen) -> list[str]:
    """What processes that are refused at their start say of it."""
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [2] * len(processes), ended
    assert all("Traceback" not in error for _, error in ended), ended
    return [next(line for line in error.splitlines() if line.startswith("train.py: ")) for _, error in ended]


def test_processes_that_were_told_different_things_are_refused_at_their_start(config):
    address = free_address()
    changes = [("save_every=2",), ("save_every=3",)]
    processes = [start(config, "dp", "differ", 4, 2, address, "2", str(i), changes=changes[i]) for i in range(2)]
    expected = (
        "train.py: --distributed: process 1 has config.save_every 3, expected 2 as process 0; start all processes with "
        "the same command"
    )
    assert refusals(*processes) == [expected] * 2
    assert not (config.parent / "dp" / "differ").exists()


def test_a_folder_in_use_is_refused_by_every_process(config):
    address = free_address()
    with claimed(config.parent / "dp" / "held", "the test"):
        processes = [start(config, "dp", "held", 4, 2, address, "2", str(i)) for i in range(2)]
        found = refusals(*processes)
    assert found[0] == found[1]
    assert f"in use by the test, process {os.getpid()} on " in found[0]


@pytest.mark.slow
def test_updates_that_stay_non_finite_end_both_processes_with_what_made_them(config):
    address, folder = free_address(), config.parent / "dp" / "wild" / "nonfinite"
    changes = ("optimizer.learning_rate=1e38", "optimizer.warmup_steps=0", "skip_limit=2", "log_every=50")
    processes = [start(config, "dp", "wild", 20, 2, address, "2", str(i), changes=changes) for i in range(2)]
    records = []
    for i, said in enumerate(refusals(*processes)):
        (dump,) = folder.glob(f"step_*_process_{i}.npz")
        assert "was not finite 2 times in a row; records [" in said
        assert f"{'parameters' if i == 0 else 'metrics'} are in {dump}" in said
        with np.load(dump) as found:
            records.append(found["batch/record"].tolist())
            assert any(name.startswith("params/") for name in found) == (i == 0)
    assert len(records[0]) == len(records[1]) == 4
    assert records[0] != records[1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["dp", "fsdp"])
def test_two_processes_train_as_one_does_and_one_takes_them_up_by_another_strategy(config, strategy):
    held = config.parent / strategy / "validated"
    write_pictures(held, 8)
    changes = (f"validation.path={held}", "validation.every=6", "validation.records=8")
    finish(start(config, strategy, "one", 12, 4, changes=changes))
    address = free_address()
    first, second = finish(
        *(start(config, strategy, "two", 10, 2, address, "2", str(i), changes=changes) for i in range(2))
    )
    assert "trained weights are in" in first
    assert "stage vae" not in second  # one of them speaks
    other = {"dp": "fsdp", "fsdp": "dp"}[strategy]
    (taken_up,) = finish(start(config, strategy, "two", 12, 4, taken_up_by=other))
    assert "taken up at step 10" in taken_up
    settings = read_config(config)
    (expected, _), (found, _) = (restore(settings, config.parent / strategy / run) for run in ("one", "two"))
    assert int(found.step) == int(expected.step) == 12
    for name, value in expected.params.items():
        moved = np.linalg.norm(np.asarray(found.params[name]) - np.asarray(value)) / np.linalg.norm(value)
        assert moved < 1e-5, name
    one, two = (validated(config.parent / strategy / run) for run in ("one", "two"))
    assert set(one) == {6, 12}
    assert set(two) == {6, 10}
    for name, value in one[6].items():
        np.testing.assert_allclose(two[6][name], value, rtol=1e-5, err_msg=name)


def validated(workdir: Path) -> dict[int, dict[str, float]]:
    """What a run's validations measured, by step."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line.pop("step"): line for line in lines if "validation/loss" in line}


def trained_until(config: Path, run: str, sent: signal.Signals, victim: int) -> list[subprocess.Popen]:
    """Two processes that have made some steps, once one of them has been sent a signal: that one, and the other."""
    address, metrics = free_address(), config.parent / "dp" / run / "metrics.jsonl"
    processes = [start(config, "dp", run, 100_000, 1, address, "2", str(i), changes=("log_every=1",)) for i in range(2)]
    while not metrics.is_file() or metrics.read_text().count("\n") < 3:
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
    processes[victim].send_signal(sent)
    return [processes[victim], processes[1 - victim]]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other_with_a_reason(config):
    dead, other = trained_until(config, "dies", signal.SIGKILL, 1)
    began = time.monotonic()
    _, error = other.communicate(timeout=120)
    dead.communicate()
    assert time.monotonic() - began < HEARTBEAT
    assert other.returncode == 1
    assert "train.py: a computation of all processes has failed, most likely because another one has died" in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "victim"), [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_a_process_that_gives_no_sign_of_life_ends_the_other(config, sent, victim):
    """Of what it says, JAX is the author, which knows no gentler end."""
    stalled, other = trained_until(config, f"stalls_{victim}", sent, victim)
    began = time.monotonic()
    _, error = other.communicate(timeout=3 * HEARTBEAT)
    stalled.kill()
    stalled.communicate()
    assert time.monotonic() - began < HEARTBEAT + 30
    assert other.returncode == -signal.SIGABRT
    assert "This most likely indicates that another task died" in error


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(config):
    both = trained_until(config, "stops", signal.SIGTERM, 1)
    said = [process.communicate(timeout=120)[0].splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [75, 75]
    assert said[0] == said[1]
    assert said[0].startswith("stopped at step ")
