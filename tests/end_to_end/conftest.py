"""What the tests of `sample.py` start from."""

import pytest

import cassr_jax
from cassr_jax.commands import fingerprint
from tests.end_to_end.quick import BicubicCascade


@pytest.fixture
def cascade(monkeypatch):
    fake = BicubicCascade()
    fake.loaded, fake.weights = [], "fingerprint"

    def load(source="tiny", **options):
        fake.loaded.append((source, options))
        return fake

    monkeypatch.setitem(vars(cassr_jax), "load", load)  # without importing the real one
    monkeypatch.setattr(fingerprint, "fingerprint", lambda source, change: fake.weights)
    return fake


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"
