"""`sample.py` as a process that is killed at any moment and started again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sample
from cassr_jax.imaging import io
from cassr_jax.imaging.manifest import Manifest
from tests.random_cascade import write_random_cascade

ROOT = Path(sample.__file__).parent
COUNT = 60


def start(source: Path, output: Path, cascade: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "sample.py", str(source), "--output", str(output), "--config", str(cascade), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen) -> None:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed


def finished(output: Path) -> dict[str, int]:
    """The results that the manifest calls finished, each with the time at which it was written."""
    done = [entry.outputs["result"] for entry in Manifest(output).entries.values() if entry.status == "done"]
    return {name: (output / name).stat().st_mtime_ns for name in done}


@pytest.mark.slow
def test_twelve_kills_cost_nothing_that_is_finished(tmp_path: Path):
    cascade = write_random_cascade(tmp_path / "cascade")
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(COUNT):
        size = (*rng.integers(4, 40, 2), 3)
        io.write(tmp_path / "in" / f"{number:02}.png", io.Picture(rng.integers(0, 256, size).astype(np.uint8)))
    end(start(tmp_path / "in", tmp_path / "whole", cascade))

    known: dict[str, int] = {}
    for kill in range(12):
        process = start(tmp_path / "in", tmp_path / "out", cascade, "--resume")
        assert process.stdout is not None
        for line, _ in zip((line for line in process.stdout if "->" in line), range(1 + kill % 3), strict=False):
            assert "->" in line  # one to three more pictures are finished
        process.kill()
        process.communicate()
        found = finished(tmp_path / "out")
        assert known.items() <= found.items(), "what is finished is neither lost nor made again"
        known = found
    assert 12 <= len(known) < COUNT
    end(start(tmp_path / "in", tmp_path / "out", cascade, "--resume"))
    assert known.items() <= finished(tmp_path / "out").items()
    for number in range(COUNT):
        name = f"{number:02}.png"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
