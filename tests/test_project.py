"""The project as a whole: what its pages promise exists, its parts import in one direction, its configurations load."""

import argparse
import ast
import importlib.metadata
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sample
import train
from cassr_jax.config import CascadeConfig, TrainConfig
from cassr_jax.config_files import from_json, read_config, to_json
from cassr_jax.loading import read_cascade

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
MODULES = sorted((ROOT / "cassr_jax").rglob("*.py"))
SCRIPTS = [ROOT / "sample.py", ROOT / "train.py"]

# The parts of the package that a part may import, besides itself and `errors`.
ALLOWED = {
    "models": set(),
    "diffusion": set(),
    "imaging": set(),
    "weights": {"models"},
    "data": {"imaging"},
    "evaluation": {"imaging", "models", "weights", "data"},
    "sharding": set(),
}
COMMANDS = {
    "commands/references.py",
    "evaluation/cascades.py",
    "evaluation/quality.py",
}  # programs, which stand on top of everything


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


# Pages


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_linked_files_exist(page):
    text = page.read_text("utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    local = [link.partition("#")[0] for link in links if not re.match(r"https?:|mailto:|#", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def shell_commands(page: Path) -> list[list[str]]:
    """The words of every command in the page's bash blocks; comments and joining `&&` are gone."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = []
    for line in lines:
        words, command = shlex.split(line, comments=True), []
        for word in [*words, "&&"]:
            if word != "&&":
                command.append(word)
            elif command:
                commands.append(command)
                command = []
    return commands


COMMANDS_SHOWN = [(page, command) for page in PAGES for command in shell_commands(page)]


def test_pages_show_commands():
    assert {"README.md", "docs/testing.md"} <= {relative(page) for page, _ in COMMANDS_SHOWN}


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS_SHOWN, ids=[f"{relative(page)}: {' '.join(words)}" for page, words in COMMANDS_SHOWN]
)
def test_commands_name_what_exists(page, command):
    """Scripts, modules, configurations, lock file and examples; what is written in capitals or made by a run is not."""
    for before, word in zip(["", *command], command, strict=False):
        if before == "-m" and word.split(".")[0] in ("cassr_jax", "tests"):
            module = ROOT / word.replace(".", "/")
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), word
        elif before == "-c" or re.fullmatch(r"(configs|examples|cassr_jax)/.*|\w+\.py", word):
            assert (ROOT / word).exists(), word
    if extras := re.search(r"\[([\w,]+)\]", " ".join(command)):
        known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        assert set(extras[1].split(",")) <= set(known)


@pytest.mark.parametrize(
    ("page", "command"),
    [(page, words) for page, words in COMMANDS_SHOWN if {"sample.py", "train.py"} & set(words)],
    ids=lambda value: relative(value) if isinstance(value, Path) else " ".join(value),
)
def test_scripts_take_the_arguments_shown(monkeypatch, page, command):
    script = next(word for word in command if word in ("sample.py", "train.py"))
    arguments = command[command.index(script) + 1 :]
    if "--help" in arguments:
        return
    if script == "sample.py":
        sample.parse(arguments)  # exits with code 2 otherwise
        return
    seen = []
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args, **kwargs):
        seen.append(parse(self, *args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train.main(arguments)
    assert seen[0].config.is_file()


def test_options_in_the_readme_exist(capsys):
    table = re.findall(r"^\| (`--.*?) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    shown = [option for cell in table for option in re.findall(r"`(--[^`]+)`", cell)]
    assert len(shown) >= 10
    for option in shown:
        sample.parse(["photo.jpg", *option.split()])


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


def test_stable_diffusion_is_sampled_as_in_the_paper():
    cascade, _ = read_cascade(ROOT / "configs/sd15.py")
    for sampling in (cascade.sampling, cascade.activation_sampling):
        assert (sampling.sampler, sampling.num_steps, sampling.guidance_scale) == ("ddim", 50, 5.5)
        assert (sampling.start, sampling.strength) == ("lr", 1)
        assert sampling.prompt == "clean, high-resolution"
        assert sampling.negative_prompt == "dotted, noise, blur, lowres, smooth"
    assert cascade.tile == 512
    assert cascade.activation == "scedit"


@pytest.mark.parametrize("stage", ["scedit", "cassr"])
def test_what_is_trained_on_stable_diffusion_is_where_the_cascade_looks(stage):
    from cassr_jax.training.masking import TRAINABLE

    cascade, _ = read_cascade(ROOT / "configs/sd15.py")
    config = read_config(ROOT / f"configs/sd15_{stage}.py")
    assert config.stage == stage
    assert set(config.new) == set(TRAINABLE[stage])
    for kind in config.new:
        assert cascade.components[kind] == f"runs/sd15_{stage}/export/{kind}"
    assert config.components.items() <= cascade.components.items()


# Code


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=relative)
def test_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    files = sorted((ROOT / "cassr_jax" / part).rglob("*.py"))
    assert files
    wrong = {
        f"{relative(path)} imports {name}"
        for path in files
        if path.relative_to(ROOT / "cassr_jax").as_posix() not in COMMANDS
        for name in imported(path)
        if name.startswith("cassr_jax.") and name.split(".")[1] not in {part, "errors", "files"} | ALLOWED[part]
    }
    assert wrong == set()


def test_everything_imported_is_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def named(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}

    always, evaluating = named(project["dependencies"]), named(project["optional-dependencies"]["eval"])
    packages = {name: {d.lower() for d in found} for name, found in importlib.metadata.packages_distributions().items()}
    for path in MODULES + SCRIPTS:
        declared = always | (evaluating if path.parent.name in ("commands", "evaluation") else set())
        for name in {name.split(".")[0] for name in imported(path)} - {"cassr_jax"} - sys.stdlib_module_names:
            distributions = {d.replace("_", "-") for d in packages[name]}
            assert distributions & declared, f"{relative(path)} imports {name}, of {distributions}"


def test_the_lock_file_holds_every_dependency_and_no_torch():
    locked = {
        re.split(r"[=\s@]", line)[0].lower().replace("_", "-"): line
        for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    }
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in locked.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        assert re.split(r"[^\w.-]", requirement)[0].lower() in locked
    assert not [name for name in locked if name.startswith(("torch", "nvidia", "cassr"))]


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
print(*sorted({"torch", "diffusers", "transformers", "tensorflow"} & set(sys.modules)))
"""
IMPORT_PICTURES = "import sys, sample, cassr_jax.imaging.io; print(*sorted({'jax', 'flax'} & set(sys.modules)))"


def run_python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_other_framework_is_imported():
    names = [relative(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in MODULES]
    assert run_python("-c", IMPORT_ALL, " ".join(names)) == ""


def test_pictures_are_read_without_jax():
    assert run_python("-c", IMPORT_PICTURES) == ""
