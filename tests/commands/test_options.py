"""The options that every sampling command shares."""

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import sample
import train
from cassr_jax import choices, config
from cassr_jax.commands import bundle
from cassr_jax.commands.options import OPTIONS, SAMPLING, add_options
from cassr_jax.commands.settings import own_values
from cassr_jax.diffusion.samplers import SAMPLERS
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.kinds import kind_of
from cassr_jax.sharding.strategies import STRATEGIES

ROOT = Path(sample.__file__).parent


def parse(names, *arguments, **defaults):
    parser = argparse.ArgumentParser(prog="program")
    add_options(parser, *names, **defaults)
    return parser.parse_args(arguments)


def test_names_are_those_of_their_registries():
    assert set(get_args(choices.Sampler)) == set(SAMPLERS)
    assert set(get_args(choices.ColorFix)) == set(COLOR_FIXES)
    assert set(choices.PRECISIONS.values()) == set(get_args(config.DType))


def test_every_strategy_can_be_asked_for(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "halves", STRATEGIES["fsdp"])
    for name in STRATEGIES:
        assert train.parse(["--config", "c.py", "--workdir", "w", "--strategy", name]).strategy == name


def test_a_bundle_is_offered_every_data_type(capsys):
    with pytest.raises(SystemExit, match="2"):
        bundle.main(["--config", "tiny", "--output", "x", "--dtype", "int8"])
    offered = capsys.readouterr().err.replace("'", "")
    assert f"choose from {', '.join(get_args(choices.DType))}" in offered


def test_left_out_is_none_or_the_commands_own():
    assert set(vars(parse(SAMPLING)).values()) == {None}
    assert vars(parse(("steps", "strength", "sampler"), steps=10, sampler="dpmpp_2m")) == {
        "steps": 10,
        "strength": None,
        "sampler": "dpmpp_2m",
    }
    assert parse(("config", "scale", "seed", "set")) == argparse.Namespace(config="tiny", scale=4.0, seed=0, set=[])


def test_loras_have_scales_and_stand_once():
    given = parse(("lora",), "--lora", "a.safetensors=-0.5", "--lora", "owner/name", "--lora", "a=b=2")
    assert vars(given) == {"loras": {"a.safetensors": -0.5, "owner/name": 1.0, "a=b": 2.0}}
    assert vars(parse(("lora",))) == {"loras": None}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("a=b", "--lora: 'a=b': the scale is 'b', expected a number"),
        ("a=inf", "--lora: 'a=inf': the scale is 'inf', expected a number"),
        ("=1", "--lora: '=1': names no LoRA, expected FILE or FILE=SCALE"),
        ("a a=2", "--lora: a is given twice, expected it once, with one scale"),
    ],
)
def test_loras_that_are_not_understood_are_refused(capsys, arguments, expected):
    with pytest.raises(SystemExit, match="2"):
        parse(("lora",), *(part for text in arguments.split() for part in ("--lora", text)))
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--steps 0", "--steps: '0', expected a whole number of at least 1 and at most 1000"),
        ("--steps 2.5", "--steps: '2.5', expected a whole number"),
        ("--guidance-scale inf", "--guidance-scale: 'inf', expected a number of at least -1000"),
        ("--strength 0", "--strength: '0', expected a number above 0 and at most 1"),
        ("--reference-weight -0.1", "--reference-weight: '-0.1', expected a number of at least 0 and at most 1"),
        ("--fidelity 1.5", "--fidelity: '1.5', expected a number of at least 0 and at most 1"),
        ("--tile -8", "--tile: '-8', expected a whole number of at least 1"),
        ("--scale nan", "--scale: 'nan', expected a number above 0 and at most 64"),
        ("--seed 9223372036854775808", "--seed: '9223372036854775808', expected a whole number"),
        ("--devices 0", "--devices: '0', expected a whole number of at least 1"),
        ("--sampler magic", "--sampler: invalid choice: 'magic'"),
        ("--color-fix magic", "--color-fix: invalid choice: 'magic'"),
        ("--decoder magic", "--decoder: invalid choice: 'magic'"),
        ("--preview 0", "--preview: '0', expected a whole number of at least 1"),
    ],
)
def test_out_of_range_is_refused_in_words(capsys, arguments, expected):
    with pytest.raises(SystemExit) as exit:
        parse(OPTIONS, *arguments.split())
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "None" not in error  # which nobody can type


ASKING_FOR_A_PATH = pytest.mark.parametrize(
    "arguments",
    [
        "sample photo.jpg --output PATH",
        "sample photo.jpg --prompts PATH",
        "train --config configs/smoke.py --workdir PATH",
        "train --config PATH --workdir run",
        "train --config configs/smoke.py --workdir run --export PATH",
        "cassr_jax.commands.references --config configs/smoke.py --records 1 --output PATH",
        "cassr_jax.commands.build --dataset folder --images PATH --output data",
        "cassr_jax.commands.build --dataset folder --images photos --output PATH",
        "cassr_jax.commands.bundle --config tiny --output PATH",
        "cassr_jax.commands.testset tiles --photos PATH --output set",
        "cassr_jax.commands.testset check PATH",
        "cassr_jax.commands.ablate --lr lr --hr hr --output PATH",
        "cassr_jax.evaluation.__main__ --hr hr --results other=PATH --output report",
        "cassr_jax.evaluation.__main__ --hr PATH --lr lr --output report",
    ],
)


@ASKING_FOR_A_PATH
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://bucket/run", "s3://bucket/run, an address, expected a path on this machine; mount or copy it first"),
        ("", "(it is ''|found '.*'), expected "),
    ],
)
def test_what_is_no_path_here_is_refused_where_one_is_asked_for(
    arguments, path, message, capsys, tmp_path, monkeypatch
):
    program, *rest = [word.replace("PATH", path) for word in arguments.split()]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        importlib.import_module(program).main(rest)
    assert exit.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error)
    assert list(tmp_path.iterdir()) == []


def test_every_option_explains_itself_and_says_its_default(capsys):
    assert all(len(option["help"].split()) >= 6 for option in OPTIONS.values())
    with pytest.raises(SystemExit):
        parse(OPTIONS, "--help", steps=10)
    shown = " ".join(capsys.readouterr().out.split())
    for default in ("(default: tiny)", "(default: 4)", "(default: 0)", "(default: 10)"):
        assert default in shown


@pytest.mark.parametrize("arguments", [["--help", "--config"], ["-h", "--workdir", "w", "--config"]])
def test_help_of_training_shows_the_configurations_own_values(capsys, arguments):
    smoke = str(ROOT / "configs/smoke.py")
    for order in ([*arguments, smoke], ["--config", smoke, "--help"]):
        with pytest.raises(SystemExit, match="0"):
            train.parse(order)
        shown = capsys.readouterr().out.splitlines()
        values = {line.split("  #")[0].strip() for line in shown}
        assert values >= {"stage = cassr", "data.preset = light", "batch_size = 2", "schedule = null"}
        assert "strategy.mesh.data = 1" in values
    with pytest.raises(SystemExit, match="0"):
        train.parse(["--help"])
    shown = capsys.readouterr().out
    assert "  batch_size = 4  #" in shown
    assert "python train.py --config configs/smoke.py --workdir runs/smoke" in shown  # which needs no data of one's own


def test_help_of_sampling_shows_what_the_configuration_decides(capsys):
    for arguments, source, expected in (
        (["--help"], "tiny", ("rrdbnet", "1", "0.2", "0.75", "256", "vae")),
        (["--help", "--config", str(ROOT / "configs/sd15.py")], "sd15.py", ("scedit", "50", "5.5", "lq", "512")),
    ):
        with pytest.raises(SystemExit, match="0"):
            sample.parse(arguments)
        shown = " ".join(capsys.readouterr().out.split())
        assert re.search(rf"The defaults below are those of \S*{source};", shown)
        for default in expected:
            assert f"(default: {default})" in shown, default


def test_help_names_what_the_first_stage_does_otherwise(tmp_path):
    text = "from cassr_jax.config import CascadeConfig, SamplingConfig\n"
    text += "cascade = CascadeConfig(activation_sampling=SamplingConfig(num_steps=20, strength=0.5))"
    (tmp_path / "c.py").write_text(text)
    own = own_values(str(tmp_path / "c.py"))
    assert (own["steps"], own["guidance_scale"], own["strength"]) == ("50, first stage 20", "5.5", "1")


def test_a_loras_path_may_hold_the_sign_before_its_scale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=y.safetensors").touch()
    assert parse(["lora"], "--lora", "x=y.safetensors").loras == {"x=y.safetensors": 1.0}
    assert parse(["lora"], "--lora", "x=y.safetensors=0.5").loras == {"x=y.safetensors": 0.5}


def test_needs_no_jax():
    code = "import sys, cassr_jax.commands.options, cassr_jax.commands.running; print('jax' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_an_empty_cascade_is_named_as_it_was_given(capsys):
    with pytest.raises(SystemExit):
        parse(["config"], "--config", "")
    assert "argument --config: it is empty, expected tiny" in capsys.readouterr().err


def test_the_help_names_the_prompts_of_tiny():
    known = kind_of("text_encoder").configuration(str(ROOT / "cassr_jax/assets/tiny/text_encoder")).prompts
    for name in ("prompt", "prompts"):
        assert f"tiny knows only {known[0]!r} and {known[1]!r}" in OPTIONS[name]["help"]
