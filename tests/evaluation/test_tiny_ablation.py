"""The trial of the second stage's parts: what it trains, what it compares, and what it says."""

import json
import runpy
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import train
from cassr_jax.config_files import override, read_config

ROOT = Path(train.__file__).parent
PROGRAM = runpy.run_path(str(ROOT / "benchmarks" / "tiny_ablation.py"), run_name="tiny_ablation")
MAIN = PROGRAM["main"]
GLOBALS = MAIN.__wrapped__.__globals__


def test_every_arrangement_is_a_configuration():
    config = read_config(ROOT / "configs" / "tiny_ablation.py")
    changed = {name: override(config, changes) for name, changes in PROGRAM["ARRANGEMENTS"].items()}
    assert changed["whole"] == config
    assert not changed["no multiple attention"].switches.attention
    assert changed["no multiple attention"].switches.residuals
    for name, switch in (("reference", "reference_attention"), ("LR image", "lr_attention")):
        switches = changed[f"no attention to the {name}"].switches
        assert switches == replace(config.switches, **{switch: False})
    assert changed["LR image as reference"].activation == "identity"


def test_seeds_are_compared_in_pairs(monkeypatch, tmp_path, capsys):
    """Each seed is 0.1 worse than the one before, each arrangement by its own step worse than the whole."""
    worse = {
        "whole": 0.0,
        "no_multiple_attention": 0.02,
        "no_attention_to_the_reference": 0.01,
        "no_attention_to_the_lr_image": 0.0,
        "lr_image_as_reference": -0.01,
    }
    trained = []

    def measure(workdir: Path, *_) -> dict[str, float]:
        name, _, seed = workdir.name.rpartition("_")
        return dict.fromkeys(PROGRAM["TITLES"], 0.3 + 0.1 * int(seed) + worse[name])

    monkeypatch.setitem(GLOBALS, "degraded_tiles", lambda *_: [])
    monkeypatch.setitem(GLOBALS, "read_weights", lambda _: ({}, {}))
    monkeypatch.setitem(GLOBALS, "measure_tiles", measure)
    monkeypatch.setitem(GLOBALS, "train", lambda _, workdir, changes, seed: trained.append((workdir.name, seed)))
    assert MAIN(["--photos", "unused", "--output", str(tmp_path)]) == 0
    assert sorted(trained) == sorted((f"{name}_{seed}", seed) for name in worse for seed in range(3))
    table = capsys.readouterr().out
    assert "| whole | 0.4000 ± 0.0577 |" in table
    assert "| no multiple attention - whole | +0.0200 ± 0.0000 |" in table
    assert "| LR image as reference - whole | -0.0100 ± 0.0000 |" in table
    content = json.loads((tmp_path / "ablation.json").read_text())
    assert len(content["runs"]["whole"]) == content["settings"]["seeds"] == 3


def test_a_training_that_fails_ends_it_with_its_exit_code(monkeypatch, tmp_path, capsys):
    def fail(*_) -> None:
        raise subprocess.CalledProcessError(2, "train.py")

    monkeypatch.setitem(GLOBALS, "degraded_tiles", lambda *_: [])
    monkeypatch.setitem(GLOBALS, "read_weights", lambda _: ({}, {}))
    monkeypatch.setitem(GLOBALS, "train", fail)
    assert MAIN(["--photos", "unused", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "tiny_ablation: training failed with exit code 2\n"


def test_photographs_that_are_not_there_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        MAIN(["--output", str(tmp_path)])
    assert MAIN(["--photos", str(tmp_path / "none"), "--output", str(tmp_path)]) == 2
    assert "none" in capsys.readouterr().err
