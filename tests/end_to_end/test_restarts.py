"""`configs/smoke.py` as a process that is asked to stop, killed, and refused its disk."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import train
from cassr_jax.config_files import read_config
from tests.training.runs import assert_same, restore

ROOT = Path(train.__file__).parent
# The same program, which cannot write a file of more than 64 KiB once its first checkpoint is complete: a full disk.
FULL = """
import pathlib, resource, sys
import train
from cassr_jax.training import loop, setup

first = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1]) / "checkpoints" / "step_2"

def open_data(config, sets, cores=None, made=setup.open_data):
    stream = made(config, sets, cores)
    class Stream:
        get_state, close, skipped = stream.get_state, stream.close, 0
        def __next__(self):
            if first.exists():
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
            return next(stream)
    return Stream()

loop.open_data = open_data
sys.exit(train.main(sys.argv[1:]))
"""


def start(workdir: Path, *changes: str, program: tuple[str, ...] = ("train.py",)):
    settings = ["--set", "log_every=1", "preview_every=0", *changes]
    command = [sys.executable, *program, "--config", "configs/smoke.py", "--workdir", str(workdir), *settings]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps_logged(workdir: Path) -> list[int]:
    """The step of every whole line of metrics; a run that is taken up writes some of them again."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.is_file() else []
    return [json.loads(line)["step"] for line in lines if line.startswith("{") and line.endswith("}")]


def logged(workdir: Path) -> int:
    return max(steps_logged(workdir), default=0)


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (workdir / "checkpoints").glob("step_?"))


def lines_until(process: subprocess.Popen, what: str) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if what in line:
            return


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path):
    process = start(tmp_path, "num_steps=100000", "save_every=100000")
    assert any("state" in line for line in lines_until(process, "state"))
    while logged(tmp_path) < 3:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    (step,) = map(int, re.findall(r"stopped at step (\d+); the same command goes on", out))
    assert step >= 3
    assert not (tmp_path / "export").exists()
    again = start(tmp_path, f"num_steps={step + 1}")
    out, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert f"taken up at step {step}" in out
    assert (tmp_path / "export" / "cassr.json").is_file()


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_the_older_checkpoint(tmp_path):
    process = start(tmp_path, program=("-c", FULL))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2, error
    found = re.search(r"train\.py: .*checkpoints: step (\d+) could not be written \(.*\); older checkpoints are", error)
    assert found is not None, error
    last = saved(tmp_path)[-1]
    assert last == int(found[1]) - 2
    process = start(tmp_path, f"num_steps={last + 2}")
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert f"taken up at step {last}" in out


@pytest.mark.slow
def test_thirty_kills_at_random_moments(tmp_path):
    """During steps and saves; half of the runs wait for each save, the others only when they would risk too much."""
    rng = np.random.default_rng(0)
    most, losses, resumed = 2, [], 0
    for trial in range(30):
        with start(
            tmp_path / "killed",
            "num_steps=100000",
            f"save_every={most if trial % 2 else most // 2}",
            f"max_lost_steps={most}",
        ) as process:
            first = next(line for line in lines_until(process, "stage cassr") if line.startswith("stage cassr"))
            found = re.search(r"taken up at step (\d+)", first)
            resumed = int(found[1]) if found else 0
            done = logged(tmp_path / "killed")
            losses.append(done - resumed)
            assert losses[-1] <= most, trial
            wanted = len(steps_logged(tmp_path / "killed")) + rng.integers(3, 7)
            while len(steps_logged(tmp_path / "killed")) < wanted and trial % 3:  # two of three: not before it trains
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(timeout=0.05)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0, 3))
            process.kill()
            assert process.wait() == -signal.SIGKILL
    print(f"steps lost by each kill: {losses[1:]}")
    assert resumed > 30  # it went on all the time
    for name in ("killed", "whole"):
        process = start(tmp_path / name, f"num_steps={resumed + 10}", "save_every=50")
        _, error = process.communicate(timeout=900)
        assert process.returncode == 0, error
    config = read_config(ROOT / "configs" / "smoke.py")
    for found, whole in zip(restore(config, tmp_path / "killed"), restore(config, tmp_path / "whole"), strict=True):
        assert_same(found, whole)
