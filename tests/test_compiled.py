"""Compiled functions are kept for the next run of a program."""

import os
from pathlib import Path

import jax
import pytest

import train
from cassr_jax.commands import ablate, references
from cassr_jax.compiled import keep_compiled_functions
from cassr_jax.evaluation import __main__ as evaluation
from cassr_jax.locks import claimed
from tests import children

FOLDER = "JAX_COMPILATION_CACHE_DIR"


def test_training_keeps_them_as_sampling_does(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert train.main(["--config", str(tmp_path / "none.py"), "--workdir", str(tmp_path)]) == 2
    assert os.environ[FOLDER] == str(tmp_path / "cassr_jax" / "compiled")


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_neither_home_nor_user_means_what_is_given_or_nothing(monkeypatch, given):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(FOLDER, raising=False)
    if given is not None:
        monkeypatch.setenv(FOLDER, given)
    monkeypatch.setattr(Path, "home", home)
    keep_compiled_functions()
    assert os.environ.get(FOLDER) == given


def test_a_program_that_has_imported_jax_keeps_them_too(tmp_path, monkeypatch):
    changed = {}
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)
    keep_compiled_functions()
    assert changed == {
        "jax_compilation_cache_dir": str(tmp_path / "cassr_jax" / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    keep_compiled_functions()  # the environment has settled it now, for child processes as well
    assert os.environ[FOLDER] == changed["jax_compilation_cache_dir"]


COMPILE = """
from cassr_jax.compiled import keep_compiled_functions
keep_compiled_functions()
import jax, jax.numpy as jnp
print(jax.jit(lambda x: x + 1)(jnp.arange(3)))
"""


def test_what_is_damaged_is_compiled_again_and_kept(tmp_path):
    """A full disk leaves a part of what JAX writes, which JAX neither reads nor replaces."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    kept = tmp_path / "cassr_jax" / "compiled"

    def complaints() -> str:
        process = children.start(COMPILE, env=environment)
        made, said = process.communicate(timeout=60)
        assert (process.returncode, made) == (0, "[1 2 3]\n")
        return said

    assert complaints() == ""
    sizes = {entry: entry.stat().st_size for entry in kept.glob("*-cache")}
    for number, (entry, size) in enumerate(sizes.items()):
        os.truncate(entry, 0 if number == 0 else size // 2)
    assert complaints() == f"compiled functions: {kept}: {len(sizes)} damaged, so these functions are compiled again\n"
    assert {entry: entry.stat().st_size for entry in kept.glob("*-cache")} == sizes


PAIRS = ("--lr", "lr", "--hr", "hr", "--output", "out")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (ablate, PAIRS),
        (evaluation, ("--config", "none", *PAIRS)),
        (references, ("--config", "none.py", "--records", "1", "--output", "out")),
    ],
)
def test_every_program_that_runs_networks_keeps_them(program, arguments, monkeypatch, tmp_path):
    kept = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "keep_compiled_functions", lambda: kept.append(program))
    assert program.main([*arguments]) == 2
    assert kept == [program]


def test_a_folder_where_another_ablation_runs_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with claimed(tmp_path / "out", "another program"):
        assert ablate.main([*PAIRS]) == 2
    assert "out: in use by another program" in capsys.readouterr().err
