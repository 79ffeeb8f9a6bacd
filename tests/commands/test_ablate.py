"""The ablations: every file changes what its name says, variants are measured once, what cannot be loaded is named."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import cassr_jax
from cassr_jax.commands import ablate
from cassr_jax.commands.ablate import read_variants, sweeps
from cassr_jax.config import CascadeConfig, FirstStageConfig
from cassr_jax.errors import InputError
from cassr_jax.evaluation import measures
from cassr_jax.evaluation.restoring import Request, Restored
from cassr_jax.restoration import Restoration
from tests.evaluation.fake_cascade import fake_cascade
from tests.evaluation.narrow_backbones import install_narrow_networks
from tests.evaluation.pair_folders import arguments, write

ABLATIONS = Path(__file__).parents[2] / "configs" / "ablations"


def test_each_file_changes_what_it_says():
    plain = CascadeConfig(first_stages={"rrdbnet": FirstStageConfig(reference_weight=0.5)})
    changed = {variant.name: variant.change(plain) for variant in read_variants(ABLATIONS)}
    assert changed.pop("whole") == plain
    for name in ("lr", "controlnet", "scedit", "rrdbnet"):
        activation = {"lr": "identity"}.get(name, name)
        assert changed.pop(f"reference_{name}").activation == activation
    for name, switches in {
        "none": {"reference_attention": False, "lr_attention": False},
        "reference": {"lr_attention": False},
        "lr": {"reference_attention": False},
    }.items():
        found = changed.pop(f"attention_{name}")
        assert found.switches == type(plain.switches)(**switches)
        assert found.sampling == plain.sampling
    alone = {"rrdbnet": FirstStageConfig(reference_weight=0.0)}
    assert changed.pop("second_stage_alone") == CascadeConfig(first_stages=alone)
    for name, scale in (("prompt_none", 1.0), ("prompt_guidance_only", plain.sampling.guidance_scale)):
        found = changed.pop(name)
        assert {s.prompt for s in (found.sampling, found.activation_sampling)} == {""}
        assert {s.guidance_scale for s in (found.sampling, found.activation_sampling)} == {scale}
    assert not changed


def test_each_cheaper_run_differs_in_what_its_name_says():
    plain = CascadeConfig()
    changed = {
        variant.name: variant.change(plain).sampling for variant in read_variants(ABLATIONS.parent / "less_work")
    }
    assert changed == {
        "whole": plain.sampling,
        "fast": replace(plain.sampling, sampler="dpmpp_2m", num_steps=20),
        "draft": replace(plain.sampling, sampler="dpmpp_2m", num_steps=8),
        "guidance_interval": replace(plain.sampling, guidance_from=0.2, guidance_to=0.8),
        "guidance_none": replace(plain.sampling, guidance_scale=1.0),
        "control_every_2": replace(plain.sampling, control_every=2),
    }


def test_sweeps_are_the_unchanged_cascade_with_other_options():
    found = {variant.name: variant.options for variant in sweeps([5, 20], [1.0, 5.5])}
    assert found == {
        "steps_05": {"steps": 5},
        "steps_20": {"steps": 20},
        "guidance_1": {"guidance_scale": 1.0},
        "guidance_5.5": {"guidance_scale": 5.5},
    }


def test_no_time_holds_compilation():
    """The first call compiles: it takes a second longer, which no picture's time may show."""
    calls: list[int] = []

    def restore(requests):
        for request in requests:
            calls.append(request.seed)
            yield Restored({}, 1.0 + (len(calls) == 1))

    requests = [Request(np.zeros((1, 1, 3), np.uint8), seed, 4) for seed in (5, 6)]
    assert [each.seconds for each in ablate._warmed(restore)(iter(requests))] == [1.0, 1.0]
    assert calls == [5, 5, 6]


def test_a_folder_without_variants_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no Python file"):
        read_variants(tmp_path)
    (tmp_path / "x.py").write_text("change = 3\n")
    with pytest.raises(InputError, match=r"x.py: defines no function `change`"):
        read_variants(tmp_path)
    (tmp_path / "x.py").write_text("y = 1\nchange = (\n")
    with pytest.raises(InputError, match=r"x.py, line 2: SyntaxError"):
        read_variants(tmp_path)


def test_a_variant_whose_function_fails_is_named(tmp_path):
    (tmp_path / "x.py").write_text("def change(cascade):\n    return cascade.nothing\n")
    (tmp_path / "y.py").write_text("def change(cascade):\n    pass\n")
    x, y = read_variants(tmp_path)
    with pytest.raises(InputError, match=r"x.py, line 2: AttributeError: .*nothing"):
        x.change(CascadeConfig())
    with pytest.raises(InputError, match=r"y.py: `change` returns NoneType, expected a CascadeConfig"):
        y.change(CascadeConfig())


@pytest.fixture
def cascade(monkeypatch):
    """A cascade that is the darker the fewer steps it takes, and has no ControlNet. Lists what is loaded."""
    loads: list[CascadeConfig] = []

    def load(source, *, activation, change, dtype, devices):
        assert activation is None  # it would undo what a variant changes
        config = change(CascadeConfig())
        loads.append(config)
        if config.activation == "controlnet":
            raise InputError("names no activation_controlnet")

        def restore(lr: np.ndarray, *, seed: int, scale: float) -> Restoration:
            large = lr.repeat(4, 0).repeat(4, 1)
            dark = (large * (config.sampling.num_steps / 50)).astype(np.uint8)
            return Restoration(large, large, dark)

        return fake_cascade(restore)

    monkeypatch.setattr(cassr_jax, "load", load)
    install_narrow_networks(monkeypatch)
    return loads


@pytest.mark.slow
def test_all_variants_stand_in_one_table(folders, cascade, capsys):
    given = arguments(folders, "--ablations", str(ABLATIONS), "--sweep-steps", "10", "25", "--sweep-guidance", "1", "3")
    assert ablate.main(given) == 0
    out = folders / "out"
    text = (out / "ablations.md").read_text()
    shown = capsys.readouterr()
    assert shown.out == text
    report = json.loads((out / "ablations.json").read_text())
    unguided = report["left_out"].pop("prompt_guidance_only")
    assert unguided.endswith("guidance_scale is 1, expected another: without guidance this row is prompt_none")
    assert report["left_out"] == {"reference_controlnet": "names no activation_controlnet"}
    assert len(report["variants"]) == 9 + 4
    darkest, dark, whole = (report["variants"][name]["means"] for name in ("steps_10", "steps_25", "whole"))
    assert darkest["psnr_y"]["mean"] < dark["psnr_y"]["mean"] < whole["psnr_y"]["mean"]
    assert "| minus whole |" in text
    row = next(line for line in text.split("| minus whole |")[1].splitlines() if line.startswith("| steps_10 |"))
    assert row.count("(0)") == 4  # darker on every picture, and so no better on any; NIQE knows no truth
    assert whole == report["variants"]["guidance_3"]["means"]
    assert "| steps_25 |" in text
    assert cv2.imread(str(out / "ablations.png")).shape[1] > 1000  # three columns
    cascade.clear()
    assert ablate.main(given) == 0
    assert [config.activation for config in cascade] == ["controlnet"]  # all others are done
    for value in report["variants"]["whole"]["means"].values():
        assert value["pictures"] == 3


def test_a_variant_changes_what_the_options_say(folders, cascade):
    """`--guidance-scale 3` holds for every variant but the one without guidance, and so on."""
    options = ["--activation", "rrdbnet", "--guidance-scale", "3", "--steps", "7", "--reference-weight", "0.5"]
    given = arguments(
        folders, "--ablations", str(ABLATIONS), *options, "--color-fix", "adain", "--tile", "64", "--lora", "a=2"
    )
    assert ablate.main([*given, "--sweep-steps", "9"]) == 0
    names = [*(path.stem for path in sorted(ABLATIONS.glob("*.py"))), "steps_09"]
    loaded = dict(zip(names, cascade, strict=True))
    for name, config in loaded.items():
        steps = 9 if name == "steps_09" else 7
        scale = 1 if name == "prompt_none" else 3
        for sampling in (config.sampling, config.activation_sampling):
            assert (sampling.num_steps, sampling.guidance_scale) == (steps, scale), name
        activation = {"lr": "identity", "controlnet": "controlnet", "scedit": "scedit"}.get(
            name.removeprefix("reference_")
        )
        assert config.activation == (activation or "rrdbnet"), name
        assert config.reference_weight == (0 if name == "second_stage_alone" else 0.5), name
        assert (config.color_fix, config.reference_color_fix, config.tile) == ("adain", "adain", 64)
        assert config.loras == {"a": 2.0}


def test_an_option_for_a_part_that_is_missing_is_refused(folders, cascade, capsys):
    assert ablate.main(arguments(folders, "--ablations", str(ABLATIONS), "--decoder", "taesd")) == 2
    assert "decoder is taesd, but this cascade has none" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--baselines", "--sigma"])
def test_rows_that_the_tables_do_not_show_are_not_offered(folders, option):
    with pytest.raises(SystemExit, match="2"):
        ablate.main(arguments(folders, option, "1"))


def test_a_measure_that_is_not_defined_is_null(folders, cascade, truths):
    """LPIPS is not defined for pictures of 20 px; the tables show a dash, the JSON null."""
    for folder in ("hr", "lr"):
        for file in (folders / folder).iterdir():
            file.unlink()
    write(folders / "hr", "small.png", truths["a"][:20, :20])
    write(folders / "lr", "small.png", np.ascontiguousarray(truths["a"][:20:4, :20:4]))
    for _ in range(2):  # measured, and read back
        assert ablate.main(arguments(folders, "--ablations", str(ABLATIONS))) == 0
        text = (folders / "out" / "ablations.json").read_text()
        means = json.loads(text, parse_constant=pytest.fail)["variants"]["whole"]["means"]
        assert means["lpips"] == {"mean": None, "standard_error": None, "pictures": 0}
        assert means["psnr_y"]["mean"] > 0


def test_a_measure_that_is_installed_in_between_is_refused(folders, cascade, capsys, monkeypatch):
    """The pictures that were measured without it would be missing from its mean alone."""

    def lack(*_):
        raise InputError("not installed")

    given = arguments(folders, "--ablations", str(ABLATIONS))
    with monkeypatch.context() as patched:
        patched.setattr(measures, "dists_weights", lack)
        assert ablate.main(given) == 0
    assert ablate.main(given) == 2
    assert 'settings.json: missing is ["clipiqa", "dists", ' in capsys.readouterr().err


def test_nothing_to_plot_is_known_before_any_work(folders, cascade, capsys, monkeypatch):
    def lack(*_):
        raise InputError("not installed")

    for name in ("lpips_weights", "dists_weights"):
        monkeypatch.setattr(measures, name, lack)
    assert ablate.main(arguments(folders, "--ablations", str(ABLATIONS))) == 2
    assert "neither LPIPS nor DISTS is installed, expected one of them to plot" in capsys.readouterr().err
    assert cascade == []


def test_two_variants_of_one_name_are_refused(folders, cascade, capsys):
    given = arguments(folders, "--ablations", str(ABLATIONS), "--sweep-steps", "5", "10", "5")
    assert ablate.main(given) == 2
    assert "two variants are called steps_05, expected a name of its own for each" in capsys.readouterr().err
    assert cascade == []


def test_a_person_s_mistake_is_one_line_and_exit_code_2(folders, cascade, capsys):
    assert ablate.main(arguments(folders, "--ablations", str(folders / "none"))) == 2
    assert "none: holds no Python file" in capsys.readouterr().err
