"""The scripts of launch/ as they are written: no common mistakes of shells, and a help."""

import shutil
import subprocess

import pytest

from tests.launch.commands import LAUNCH

SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def test_there_are_scripts():
    assert [file.name for file in SCRIPTS] == ["slurm.sh", "tpu.sh", "worker.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_shellcheck_finds_nothing(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_a_script_tells_of_itself(script, tmp_path):
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
