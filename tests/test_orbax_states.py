"""Networks as Orbax states: every bit is kept, arrays are read in groups, and damage is named."""

import math
import re
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from cassr_jax.errors import InputError
from cassr_jax.kinds import KINDS
from cassr_jax.networks import write_network
from cassr_jax.weights import orbax_state
from tests.damage import damage
from tests.pipelines import CONFIGS, assert_bits, make_pipeline, run, tensors_of
from tests.weights.published import (
    UNET,
    VAE,
    load_weights,
    random_component,
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("models") / "sd")


def test_to_orbax_states_and_back_every_bit_is_kept(pipeline, tmp_path):
    states, back = tmp_path / "states", tmp_path / "back"
    assert run("convert", pipeline, states, "--layout", "orbax") == 0
    assert not list(states.rglob("*.safetensors"))
    assert run("convert", states, back) == 0
    assert_bits(tensors_of(back), tensors_of(pipeline))
    for kind, config in CONFIGS.items():
        assert load_weights(states, kind)[0] == config
        assert load_weights(states / kind, kind)[0] == config
    found = ocp.PyTreeCheckpointer().restore(states / "unet/state")["params"]
    assert found["conv_in.kernel"].shape == (3, 3, 4, 8)  # this program's own name and axes
    assert found.keys() == KINDS["unet"].shapes(UNET).keys()


def test_a_damaged_orbax_state_is_named(pipeline, tmp_path, capsys):
    assert run("convert", pipeline, tmp_path / "states", "--layout", "orbax", "--kind", "vae") == 0
    (tmp_path / "states/vae/state/_METADATA").write_text("{")
    assert run("show", tmp_path / "states") == 0
    assert "vae/state: its list of arrays cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("state", [{"other": {"a": np.ones(2)}}, {"params": {"a": {"b": np.ones(2)}}}, [np.ones(2)]])
def test_an_orbax_state_of_something_else_is_named(tmp_path, state):
    ocp.PyTreeCheckpointer().save(tmp_path / "state", state)
    with pytest.raises(InputError, match="has no tree params of arrays by the parameters' names, expected a network's"):
        orbax_state.read_state(tmp_path / "state")


def test_a_damaged_array_of_an_orbax_state_is_named(pipeline, tmp_path, capsys):
    assert run("convert", pipeline, tmp_path / "states", "--layout", "orbax", "--kind", "vae") == 0
    damage(max((tmp_path / "states/vae/state").rglob("d/*"), key=lambda file: file.stat().st_size))
    assert run("convert", tmp_path / "states", tmp_path / "back") == 2
    assert re.search(r"vae/state: params cannot be read \(.+\), expected a network's state", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["states"]


@pytest.mark.parametrize("most", [1, 300, 2**28])
def test_arrays_are_read_in_groups_of_bounded_size(pipeline, tmp_path, monkeypatch, most):
    assert run("convert", pipeline, tmp_path / "states", "--layout", "orbax", "--kind", "vae") == 0
    sizes, read = [], orbax_state.StateTree._read

    def counted(self, names):
        sizes.append([math.prod(self.arrays[name].shape) * self.arrays[name].dtype.itemsize for name in names])
        return read(self, names)

    monkeypatch.setattr(orbax_state, "_MOST", most)
    monkeypatch.setattr(orbax_state.StateTree, "_read", counted)
    state = orbax_state.open_state(tmp_path / "states/vae/state", "params", "")
    fetch = state.reader([*state.arrays])
    for name in state.arrays:
        assert fetch(name).shape == state.arrays[name].shape
    assert sum(map(len, sizes)) == len(state.arrays)  # each once
    assert all(sum(group) <= most or len(group) == 1 for group in sizes)
    assert len(sizes) == 1 if most == 2**28 else len(sizes) > 5


def test_a_number_that_a_type_cannot_hold_leaves_no_orbax_state(tmp_path, capsys):
    params = random_component("vae", VAE)
    name = next(iter(params))
    write_network(tmp_path / "vae", "vae", VAE, {**params, name: np.full_like(params[name], 1e6)})
    assert run("convert", tmp_path / "vae", tmp_path / "out", "--layout", "orbax", "--dtype", "float16") == 2
    assert "which is too large for float16" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]
