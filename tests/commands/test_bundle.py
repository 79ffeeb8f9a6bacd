"""Bundling a cascade into one folder."""

import os
from pathlib import Path

import numpy as np

import cassr_jax
from cassr_jax.commands import bundle
from cassr_jax.locks import claimed
from tests.random_cascade import write_random_cascade


def test_a_bundle_is_the_cascade_in_one_folder(tmp_path: Path, capsys):
    source, output = write_random_cascade(tmp_path / "source"), tmp_path / "bundle"
    arguments = ["--config", str(source), "--output", str(output), "--dtype", "float32"]
    with claimed(output, "another program"):
        assert bundle.main(arguments) == 2
    assert f"{output}: in use by another program, process {os.getpid()}" in capsys.readouterr().err
    assert list(output.iterdir()) == []

    assert bundle.main(arguments) == 0
    moved = output.rename(tmp_path / "moved")
    expected, found = (cassr_jax.load(folder).networks for folder in (source, moved))
    assert found.configs == expected.configs
    assert found.params.keys() == expected.params.keys()
    assert all(np.array_equal(value, expected.params[name]) for name, value in found.params.items())
    assert not (moved / ".lock").exists()
