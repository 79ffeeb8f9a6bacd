"""Compiled functions are kept for the next run of a program."""

import os
from pathlib import Path

import pytest

import train
from cassr_jax.commands.compiled import keep_compiled_functions

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
