"""`train.py` as a person runs it: processes that finish, that are told what is wrong, and that are killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train
from cassr_jax.config_files import read_config
from cassr_jax.networks import Networks
from tests.training.runs import assert_same, restore, write_vae_run

ROOT = Path(train.__file__).parent
CHANGES = ["batch_size=3", "optimizer.learning_rate=2e-3"]
# The same program, killed by the system when it asks for its fifth batch.
KILLED = """
import os, signal, sys
import train
from cassr_jax.training import setup

def batches(*args, made=setup.batches, **kwargs):
    stream = made(*args, **kwargs)
    class Stream:
        count = skipped = 0
        get_state, close = stream.get_state, stream.close
        def __next__(self):
            self.count += 1
            if self.count == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return next(stream)
    return Stream()

setup.batches = batches
sys.exit(train.main(sys.argv[1:]))
"""


def run(*arguments: str | Path, program: tuple[str, ...] = ("train.py",)) -> subprocess.CompletedProcess:
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("train")
    write_vae_run(path)
    return path


@pytest.fixture(scope="module")
def finished(folder) -> subprocess.CompletedProcess:
    arguments = ["--config", folder / "config.py", "--workdir", folder / "whole", "--set", *CHANGES]
    return run(*arguments)


def test_help_says_how(folder):
    done = run("--help")
    assert done.returncode == 0
    for option in ("--config", "--workdir", "--steps", "--set"):
        assert option in done.stdout


def test_a_run_ends_with_an_export(folder, finished):
    assert finished.returncode == 0, finished.stderr
    workdir = folder / "whole"
    assert finished.stdout.strip().splitlines()[-1] == f"trained weights are in {workdir / 'export'}"
    assert {path.name for path in (workdir / "export").iterdir()} == {"vae", "trained.json"}
    params = Networks().with_read("vae", str(workdir / "export" / "vae"), "float32").params
    assert all(np.isfinite(value).all() for value in params.values())
    resolved = json.loads((workdir / "config.json").read_text())
    assert resolved["batch_size"] == 3
    assert resolved["optimizer"]["learning_rate"] == 2e-3
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_the_same_command_again_says_that_it_is_done(folder, finished, capsys):
    assert finished.returncode == 0
    arguments = ["--config", str(folder / "config.py"), "--workdir", str(folder / "whole"), "--set", *CHANGES]
    assert train.main(arguments) == 0
    assert "done already, at step 5; num_steps is 5;" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(folder, finished):
    arguments = ["--config", folder / "config.py", "--workdir", folder / "killed", "--set", *CHANGES]
    killed = run(*arguments, program=("-c", KILLED))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "killed" / "export").exists()
    resumed = run(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "taken up at step" in resumed.stdout
    config = read_config(folder / "config.py")
    for found, expected in zip(restore(config, folder / "killed"), restore(config, folder / "whole"), strict=True):
        assert_same(found, expected)
    vae = "export/vae/diffusion_pytorch_model.safetensors"
    assert (folder / "killed" / vae).read_bytes() == (folder / "whole" / vae).read_bytes()


def test_a_wrong_configuration_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "bad.py").write_text("config = TrainConfig()")
    done = run("--config", tmp_path / "bad.py", "--workdir", tmp_path / "run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"train.py: {tmp_path / 'bad.py'}, line 1: NameError: name 'TrainConfig' is not defined"
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "batchsize=2"], "batchsize: TrainConfig has no field 'batchsize'"),
        (["--set", "data.crop_size=30"], "data.crop_size: crop_size is 30, expected a multiple of scale, which is 4"),
        (["--steps", "0"], "num_steps is 0, expected a whole number of at least 1"),
        (["--set", "data.path=nowhere"], "nowhere: is not a folder, expected a folder of pictures"),
        (["--set", "stage=cassr"], "stage cassr needs controlnet, multiple_attention, unet, text_encoder, expected in"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(folder, tmp_path, capsys, arguments, message):
    assert train.main(["--config", str(folder / "config.py"), "--workdir", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"train.py: {message}")
    assert error.count("\n") == 1
