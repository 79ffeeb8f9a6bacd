"""A run's checkpoint gives the weights that its export would hold, without the networks that it has not trained."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.config_files import to_json
from cassr_jax.errors import InputError
from cassr_jax.files import read_json
from cassr_jax.networks import write_network
from cassr_jax.training.checkpoint import Checkpoints
from cassr_jax.training.state import TrainState, make_optimizer
from cassr_jax.training.stored import open_checkpoint
from cassr_jax.weights import __main__ as program
from tests.damage import damage
from tests.random_cascade import NETWORKS, random_params
from tests.training.runs import configure


def run(*arguments: object) -> int:
    return program.main([str(argument) for argument in arguments])


def test_the_newest_checkpoint_is_what_the_run_exported(finished: Path, tmp_path: Path, capsys):
    assert run("show", finished) == 0
    assert f"{finished}: a training run at step 7, its averaged weights\n  vae: " in capsys.readouterr().out
    assert run("convert", finished, tmp_path / "out") == 0
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "out/vae" / name).read_bytes() == (finished / "export/vae" / name).read_bytes()


def test_a_step_and_the_last_weights_are_chosen(finished: Path, tmp_path: Path):
    found = {last: open_checkpoint(finished, 6, last) for last in (False, True)}
    assert [run.averaged for run in found.values()] == [True, False]
    averaged, last = (run.networks["vae"].read("decoder.conv_in.kernel") for run in found.values())
    assert np.any(averaged != last)
    assert open_checkpoint(finished).step == 7
    with pytest.raises(InputError, match=r"checkpoints: holds .*7, expected step 5000"):
        open_checkpoint(finished, 5000)


def save_run(workdir: Path, networks: Path, stage: str = "scedit", **changes) -> Path:
    """A checkpoint of a stage at its first step, whose frozen networks are then gone."""
    components = {kind: str(networks / kind) for kind in ("vae", "unet", "text_encoder")}
    config = configure(stage, networks, components=components, new={stage: NETWORKS[stage]}, **changes)
    params = {f"{stage}.{name}": jnp.asarray(value) for name, value in random_params(stage).items()}
    checkpoints = Checkpoints(workdir, 2, run={"config": to_json(config), "frozen": {}})
    checkpoints.save(TrainState.create(params, make_optimizer(config.optimizer, config.num_steps)), {})
    checkpoints.close()
    return workdir


def test_a_new_network_needs_no_other(tmp_path: Path):
    workdir = save_run(tmp_path / "run", tmp_path / "nowhere")
    assert run("convert", workdir, tmp_path / "out") == 0
    write_network(tmp_path / "expected", "scedit", NETWORKS["scedit"], random_params("scedit"))
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "out/scedit" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_what_is_damaged_is_named(finished: Path, tmp_path: Path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    for arrays in (workdir / "checkpoints/step_7/state").rglob("d/*"):
        arrays.write_bytes(b"")
    ran = subprocess.run([sys.executable, "-m", "cassr_jax.weights", "show", workdir], capture_output=True, text=True)
    assert ran.returncode == 2
    assert re.fullmatch(
        r"weights: \S+/step_7/state: its list of arrays cannot be read \(.*\), expected .*\n", ran.stderr
    )
    (workdir / "checkpoints/step_7/state/_METADATA").write_text("{")
    with pytest.raises(InputError, match="step_7/state: its list of arrays cannot be read"):
        open_checkpoint(workdir)
    (workdir / "checkpoints/step_7/run/metadata").write_text("{")
    with pytest.raises(InputError, match=r"run/metadata: not JSON"):
        open_checkpoint(workdir)


def test_arrays_that_are_damaged_after_their_list_was_read_are_named(finished: Path, tmp_path: Path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    weights = open_checkpoint(workdir).networks["vae"]
    for file in (workdir / "checkpoints/step_7/state").rglob("d/*"):
        damage(file)
    with pytest.raises(InputError, match=r"step_7/state: ema cannot be read \(.+\), expected an intact checkpoint"):
        weights.read("decoder.conv_in.kernel")


def test_an_array_that_was_changed_is_named(tmp_path: Path):
    workdir = save_run(tmp_path / "run", tmp_path / "nowhere")
    file = workdir / "checkpoints/step_0/run/metadata"
    account = read_json(file)
    account["checksums"]["params/scedit.pre_hint_blocks.0.bias"] += 1
    file.write_text(json.dumps(account))
    weights = open_checkpoint(workdir, last=True).networks["scedit"]
    with pytest.raises(InputError, match=r"params scedit\.pre_hint_blocks\.0\.bias is not what was saved"):
        weights.read("pre_hint_blocks.0.bias")


def test_another_network_of_the_same_name_is_refused(tmp_path: Path):
    workdir = save_run(tmp_path / "run", tmp_path / "nowhere")
    account = workdir / "checkpoints/step_0/run/metadata"
    account.write_text(account.read_text().replace('"hint_channels": [8, 8, 16]', '"hint_channels": [8, 8, 8]'))
    with pytest.raises(InputError, match=r"step_0: scedit\.\S+ is \(\S.*\), expected \(.*, a new one"):
        open_checkpoint(workdir)


def test_no_checkpoint(tmp_path: Path, capsys):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    assert run("show", tmp_path / "run") == 2
    assert "checkpoints: holds no checkpoint, expected a checkpoint" in capsys.readouterr().err
