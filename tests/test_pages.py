"""What the pages and the configurations say: what they show exists, takes the arguments shown, and loads."""

import argparse
import ast
import importlib
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest

import sample
from cassr_jax.commands import references
from cassr_jax.config import CascadeConfig, LossConfig, OptimizerConfig, TrainConfig
from cassr_jax.config_files import from_json, override, read_config, to_json
from cassr_jax.first_stage import all_first_stages, first_stage
from cassr_jax.loading import read_cascade
from cassr_jax.ranges import check
from cassr_jax.training.stages import STAGES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
CHANGES = sorted((ROOT / "configs").glob("*/**/*.py"))  # of a cascade, for `ablate`


class Seen(Exception):
    """Ends a program whose arguments were looked at."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Pages


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_linked_files_exist(page):
    text = page.read_text("utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    local = [link.partition("#")[0] for link in links if not re.match(r"https?:|mailto:|#", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def shell_lines(file: Path) -> list[str]:
    """The lines of a page's bash blocks, or the commands in a docstring, joined where one ends in a backslash."""
    text = file.read_text("utf-8")
    if file.suffix == ".py":
        docstring = (ast.get_docstring(ast.parse(text)) or "").replace("\\\n", " ")
        return re.findall(r"^ {4}(python .*)$", docstring, re.MULTILINE)
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    # What is in a loop is read as it runs first; besides, `shlex` would take the # for a comment.
    first = "\n".join(blocks).replace("${set%,*}", "light").replace("${set#*,}", "0")
    return first.replace("\\\n", " ").splitlines()


def shell_commands(file: Path) -> list[list[str]]:
    """The words of every command that a page or a configuration shows; comments and joining `&&` are gone."""
    commands = []
    for line in shell_lines(file):
        words, command = shlex.split(line, comments=True), []
        for word in [*words, "&&"]:
            if word != "&&":
                command.append(word)
            elif command:
                commands.append(command)
                command = []
    return commands


COMMANDS_SHOWN = [(file, command) for file in [*PAGES, *CONFIGS, *CHANGES] for command in shell_commands(file)]


def test_pages_show_commands():
    assert {"README.md", "docs/testing.md", "configs/ablations/prompt_none.py"} <= {
        relative(p) for p, _ in COMMANDS_SHOWN
    }
    [joined] = shell_commands(ROOT / "configs/less_work/fast.py")
    assert joined[-2:] == ["--guidance-scale", "3"]


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS_SHOWN, ids=[f"{relative(page)}: {' '.join(words)}" for page, words in COMMANDS_SHOWN]
)
def test_commands_name_what_exists(page, command):
    """Scripts, modules, configurations, lock file and examples; what is written in capitals or made by a run is not."""
    for before, word in zip(["", *command], command, strict=False):
        if before == "-m" and word.split(".")[0] in ("cassr_jax", "tests"):
            module = ROOT / word.replace(".", "/")
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), word
        elif re.fullmatch(r"(configs|examples|cassr_jax|benchmarks)/.*|\w+\.(py|lock)", word):
            assert (ROOT / word).exists(), word
    if extras := re.search(r"\.\[([\w,]+)\]", " ".join(command)):
        known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        assert set(extras[1].split(",")) <= set(known)


def program(command: Sequence[str]) -> tuple[str, list[str]] | None:
    """The module or the file that a command runs, and its arguments; None where it is no program of this project."""
    for at, word in enumerate(command):
        if word in ("sample.py", "train.py"):
            return word.removesuffix(".py"), [*command[at + 1 :]]
        if re.fullmatch(r"(benchmarks|docs/images)/\w+\.py", word):
            return word, [*command[at + 1 :]]
        if command[at - 1] == "-m" and word.split(".")[0] == "cassr_jax":
            return (f"{word}.__main__" if (ROOT / word.replace(".", "/")).is_dir() else word), [*command[at + 1 :]]
    return None


def start(name: str) -> None:
    """Runs a program with the arguments in `sys.argv`."""
    if name.endswith(".py"):
        runpy.run_path(str(ROOT / name), run_name="__main__")
    else:
        importlib.import_module(name).main()


@pytest.mark.parametrize(
    ("page", "command"),
    [(page, words) for page, words in COMMANDS_SHOWN if program(words) and "--help" not in words],
    ids=lambda value: relative(value) if isinstance(value, Path) else " ".join(value),
)
def test_programs_take_the_arguments_shown(monkeypatch, page, command):
    found = program(command)
    assert found is not None
    name, given = found
    parse, seen = argparse.ArgumentParser.parse_args, []

    def parse_and_stop(self: argparse.ArgumentParser, *args, **kwargs):
        seen.append(parse(self, *args, **kwargs))  # exits with code 2 where it does not take them
        raise Seen

    if name.endswith(".py") and not given:
        assert "add_argument" not in (ROOT / name).read_text("utf-8")
        return
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [name, *given])
    with pytest.raises(Seen):
        start(name)
    assert seen


@pytest.mark.parametrize(
    ("page", "command"),
    [(page, words) for page, words in COMMANDS_SHOWN if {"--config", "--set"} <= set(words)],
    ids=lambda value: relative(value) if isinstance(value, Path) else " ".join(value),
)
def test_fields_shown_can_be_set(page, command):
    after = command[command.index("--set") + 1 :]
    changes = [*takewhile(lambda word: "=" in word, after)]
    assert changes
    file = ROOT / command[command.index("--config") + 1]
    config = read_cascade(file)[0] if "--sample" in command else read_config(file)
    check(override(config, changes))


REFERENCES = "cassr_jax.commands.references"
MAKING_RECORDS = [(page, words) for page, words in COMMANDS_SHOWN if REFERENCES in words]


@pytest.fixture(scope="module")
def with_references() -> set[Path]:
    """The folders of records in which a configuration reads references that a first stage has made."""
    configs = [read_config(file) for file in CONFIGS if "config" in runpy.run_path(str(file))]
    learning = [c for c in configs if "reference" in STAGES[c.stage].reads and c.activation != "identity"]
    return {Path(path) for config in learning for path in config.data.weights()}


def test_records_with_references_are_made_by_commands_shown(with_references):
    made = {Path(words[words.index("--output") + 1]) for _, words in MAKING_RECORDS}
    found = {path.as_posix() for path in with_references for output in made if path in (output, *output.parents)}
    assert found >= {"data/pairs", "data/paper_pairs", "runs/references", "runs/references_both"}


@pytest.mark.parametrize(
    ("page", "command"),
    MAKING_RECORDS,
    ids=lambda value: relative(value) if isinstance(value, Path) else " ".join(value),
)
def test_commands_that_promise_references_choose_a_first_stage(with_references, page, command):
    arguments = references.parse(command[command.index(REFERENCES) + 1 :])
    config = read_config(ROOT / arguments.config, arguments.set)
    name = arguments.activation or config.activation
    references.check_used(arguments, None if name is None else first_stage(name))
    promised = with_references & {arguments.output, *arguments.output.parents}
    assert name is not None or not promised


def test_rows_of_the_paper_s_tables_are_variants():
    section = (ROOT / "docs/paper.md").read_text("utf-8").partition("## The paper's tables as commands")[2]
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \|$", section, re.MULTILINE)
    mentioned = re.findall(r"`((?:attention|reference|prompt)_\w+)`", section)
    assert len(rows) == 6
    for name in {*rows, *mentioned}:
        assert (ROOT / "configs" / "ablations" / f"{name}.py").is_file(), name


def test_options_in_the_readme_exist(capsys):
    table = re.findall(r"^\| (`--.*?) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    shown = [option for cell in table for option in re.findall(r"`(--[^`]+)`", cell)]
    assert len(shown) >= 10
    for option in shown:
        sample.parse(["photo.jpg", *option.split()])


def test_the_memory_of_parameters_in_the_page_is_what_the_benchmark_prints():
    table = runpy.run_path(str(ROOT / "benchmarks/step_memory.py"))["table"]()
    assert f"\n{table}\n" in (ROOT / "docs/training.md").read_text("utf-8")


def test_the_readme_marks_its_test_command_for_ci():
    text = (ROOT / "README.md").read_text("utf-8")
    marked = re.search(r"^<!-- tests -->\n```bash\n(.*?)^```\n<!-- end of tests -->$", text, re.MULTILINE | re.DOTALL)
    assert marked is not None
    assert "-m pytest" in marked[1]
    assert ".venv/bin/pip install" in marked[1]
    assert "torch" not in marked[1]
    assert "<!-- tests -->" in (ROOT / ".ci/run").read_text("utf-8")


# Configurations


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_configuration_loads_and_survives_json(path):
    found = runpy.run_path(str(path))
    if "cascade" in found:
        cascade, base = read_cascade(path)
        assert base == path.parent
        assert from_json(CascadeConfig, json.loads(json.dumps(to_json(cascade))), relative(path)) == cascade
    if "config" in found:
        config = read_config(path)
        assert from_json(TrainConfig, json.loads(json.dumps(to_json(config))), relative(path)) == config
    assert {"cascade", "config"} & set(found)


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_configuration_begins_with_its_command_cost_and_result(path):
    summary, *rest = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()
    assert summary.endswith(".")
    assert any(word.endswith(path.name) for words in shell_commands(path) for word in words)
    labels = [label for line in rest if (label := line.split(":")[0]) in ("Needs", "Cost", "Result")]
    assert labels == ["Needs", "Cost", "Result"]


@pytest.mark.parametrize("name", ["sd15", "paper_cassr", "paper_no_attention"])
def test_stable_diffusion_is_sampled_as_in_the_paper(name):
    cascade, _ = read_cascade(ROOT / f"configs/{name}.py")
    for sampling in (cascade.sampling, cascade.activation_sampling):
        assert (sampling.sampler, sampling.num_steps, sampling.guidance_scale) == ("ddim", 50, 5.5)
        assert (sampling.start, sampling.strength) == ("lq", 1)
        assert sampling.prompt == "clean, high-resolution"
        assert sampling.negative_prompt == "dotted, noise, blur, lowres, smooth"
    assert cascade.tile == 512
    assert cascade.activation == "scedit"


@pytest.mark.parametrize(
    ("name", "cascade"),
    [
        ("sd15_scedit", "sd15"),
        ("sd15_cassr", "sd15"),
        ("sd15_controlnet", "sd15_controlnet"),
        ("paper_scedit", "paper_cassr"),
        ("paper_controlnet", "paper_cassr"),
        ("paper_cassr", "paper_cassr"),
        ("paper_no_attention", "paper_no_attention"),
    ],
)
def test_what_is_trained_on_stable_diffusion_is_where_the_cascade_looks(name, cascade):
    config, (found, _) = read_config(ROOT / f"configs/{name}.py"), read_cascade(ROOT / f"configs/{cascade}.py")
    assert set(config.new) == set(STAGES[config.stage].trains)
    for kind in config.new:
        assert found.components[kind] == f"runs/{name}/export/{kind}"
    assert config.components.items() <= found.components.items()
    assert config.switches == found.switches or config.stage != "cassr"


@pytest.mark.parametrize("stage", ["scedit", "controlnet", "cassr"])
def test_a_configuration_named_as_the_papers_has_the_papers_values(stage):
    config = read_config(ROOT / f"configs/paper_{stage}.py")
    assert (config.stage, config.batch_size, config.num_steps) == (stage, 4 * 8, 100_000)
    assert config.optimizer == OptimizerConfig(learning_rate=5e-4, warmup_steps=0, decay="constant", ema_decay=0)
    assert config.optimizer.weight_decay == 0
    assert config.loss == LossConfig()
    assert config.prompt == "clean, high-resolution"
    data = config.data
    assert (data.crop_size, data.scale, data.preset) == (512, 4, "realesrgan")
    assert (data.sharp_fraction, data.min_scale) == (0, 1)  # crops from anywhere, of the picture as it is
    sets = {"data/div2k": 800, "data/div8k": 1500, "data/flickr2k": 2650, "data/ost": 10324, "data/ffhq": 10000}
    assert data.weights() == ({"data/paper_pairs": 1} if stage == "cassr" else sets)


def test_a_message_about_a_missing_network_names_cascades_that_have_it():
    for stage in all_first_stages():
        assert bool(stage.holder) == bool(stage.networks)
        if stage.holder:
            source = stage.holder if stage.holder == "tiny" else ROOT / stage.holder
            assert read_cascade(source)[0].components.keys() >= {*stage.networks}
    assert "fusion" in read_config(ROOT / "configs/tiny_second.py").components  # as `Options.check_networks` says


def test_figure_6_is_trained_as_the_paper_but_for_the_attention():
    whole, without = (read_config(ROOT / f"configs/paper_{name}.py") for name in ("cassr", "no_attention"))
    assert whole.switches.attention
    assert not without.switches.attention
    assert without.switches.residuals
    assert replace(without, switches=whole.switches) == whole
