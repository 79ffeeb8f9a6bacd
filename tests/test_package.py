"""The package as it is installed: its programs, its extras, and the configurations that it brings along.

`.ci/wheel` builds it, installs it and runs it.
"""

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cassr_jax.commands.about import called, command_line, versions
from cassr_jax.commands.running import command
from cassr_jax.config_files import read_config, shipped
from cassr_jax.errors import InputError
from cassr_jax.extras import EXTRA_OF
from cassr_jax.loading import read_cascade

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_every_program_is_a_function_that_returns_an_exit_code(script, capsys):
    module, _, name = PROJECT["scripts"][script].partition(":")
    main = getattr(importlib.import_module(module), name)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out == f"{versions()}\n"


def test_the_scripts_are_what_the_repository_has_at_its_root():
    for name in ("sample.py", "train.py"):
        assert (ROOT / "cassr_jax" / "programs" / name).resolve() == ROOT / name


def test_the_version_is_stated_once_and_names_the_devices():
    assert versions().splitlines()[0].startswith(f"cassr-jax {PROJECT['version']} (Python ")
    assert versions().splitlines()[1:] == ["back ends:", "  cpu: 8 x cpu"]  # as the tests simulate them


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_shells_complete_options(script, shell, capsys):
    module, _, name = PROJECT["scripts"][script].partition(":")
    with pytest.raises(SystemExit):
        getattr(importlib.import_module(module), name)(["--print-completion", shell])
    printed = capsys.readouterr().out
    assert "--config" in printed
    assert {"bash": "compgen", "zsh": "#compdef", "tcsh": "complete "}[shell] in printed


def test_a_program_speaks_by_the_name_that_it_was_called_by(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/cassr-sample", "x"])
    assert (called("sample.py"), command_line("sample.py")) == ("cassr-sample", "cassr-sample")
    monkeypatch.setattr(sys, "argv", ["sample.py"])
    assert (called("sample.py"), command_line("sample.py")) == ("sample.py", "python sample.py")


def test_a_configuration_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_cascade("sd15_tile") == read_cascade(shipped(Path("sd15_tile")))
    assert read_config(Path("smoke")).stage == read_config(ROOT / "configs" / "smoke.py").stage
    assert shipped(Path("nothing")) == Path("nothing")
    assert shipped(Path("ablations/none")) == Path("ablations/none")
    Path("smoke").mkdir()  # what is there comes first
    with pytest.raises(InputError, match="smoke: is a folder"):
        read_config(Path("smoke"))


def test_every_extra_that_is_named_exists_and_brings_what_is_said():
    brought = importlib.metadata.packages_distributions()
    for module, extra in EXTRA_OF.items():
        named = {re.split(r"[^\w.-]", line)[0].lower() for line in PROJECT["optional-dependencies"][extra]}
        for distribution in brought.get(module, []):  # those that are installed
            assert distribution.lower().replace("_", "-") in {name.replace("_", "-") for name in named}, module


def test_a_missing_extra_is_one_sentence(capsys):
    @command("program")
    def main(argv=None):
        raise ModuleNotFoundError("No module named 'grain.python'", name="grain.python")

    assert main([]) == 2
    assert capsys.readouterr().err == (
        "program: the package grain is not installed, expected the extra `train`: pip install 'cassr-jax[train]'\n"
    )

    @command("program")
    def broken(argv=None):
        raise ModuleNotFoundError("No module named 'numpi'", name="numpi")  # no extra brings it: our fault

    with pytest.raises(ModuleNotFoundError):
        broken([])


WITHOUT = """
import sys
for name in sys.argv[1].split():
    sys.modules[name] = None
import cassr_jax.commands.fingerprint, cassr_jax.demo.work, cassr_jax.loading, sample
"""


def test_restoring_needs_no_extra():
    modules = " ".join(EXTRA_OF.keys() - {"absl", "gcsfs"})  # Flax brings the first
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT, modules], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
