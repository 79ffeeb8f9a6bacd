"""The file formats, each against an independent writer or reader of it, and what damaged files do."""

import errno
import json
import os
import pickle

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from cassr_jax.errors import InputError
from cassr_jax.weights.files import find_weights, read_tensors, weight_names
from cassr_jax.weights.flax_msgpack import read_flax_msgpack
from cassr_jax.weights.safetensors import read_safetensors, write_safetensors
from cassr_jax.weights.tensors import contiguous
from tests.weights.published import save, save_sharded

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def arrays(dtypes=DTYPES):
    rng = np.random.default_rng(0)
    result = {f"a.{name}": rng.normal(size=(3, 5)).astype(name) for name in dtypes}
    return result | {"scalar": np.array(3.5, np.float32), "empty": np.zeros((0, 4), np.float32)}


def assert_read(tensors, expected):
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        assert (tensors[name].shape, tensors[name].dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(tensors[name].read(), value)


class TestSafetensors:
    def test_reads_what_the_library_writes(self, tmp_path):
        path = tmp_path / "a.safetensors"
        safetensors.numpy.save_file(arrays(), path)
        found = read_safetensors(path)
        assert_read({name: found[name] for name in arrays()}, arrays())

    def test_the_library_reads_what_is_written(self, tmp_path):
        path = save(tmp_path / "a.safetensors", arrays())
        with safe_open(path, "numpy") as file:
            assert file.metadata() == {"format": "pt"}
            for name, value in arrays().items():
                read = file.get_tensor(name)
                assert (read.shape, read.dtype) == (value.shape, value.dtype)
                np.testing.assert_array_equal(read, value)

    def test_bfloat16(self, tmp_path):
        value = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
        path = save(tmp_path / "a.safetensors", {"w": value})
        assert_read(read_safetensors(path), {"w": value})

    def test_a_full_disk_is_one_sentence_and_leaves_the_file_before(self, tmp_path, monkeypatch):
        before = save(tmp_path / "a.safetensors", arrays(["float32"])).read_bytes()

        def fsync(number):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match=r"a\.safetensors: cannot be written \(No space left on device\)"):
            save(tmp_path / "a.safetensors", arrays(["float64"]))
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]

    def test_every_way_of_cutting_is_noticed(self, tmp_path):
        whole = save(tmp_path / "a.safetensors", arrays(["float32"])).read_bytes()
        path = tmp_path / "cut.safetensors"
        for length in (0, 4, 8, 20, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"cut\.safetensors"):
                read_safetensors(path)

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"dtype": "F32", "shape": [2], "data_offsets": [0, 2**60]}, "needs 8 bytes"),
            ({"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}, "cut short"),
            ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "impossible shape"),
            ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "needs 8 bytes"),
            ({"dtype": "F32", "shape": [2]}, "entry for w is damaged"),
            ([], "entry for w is damaged"),
        ],
    )
    def test_impossible_headers(self, tmp_path, entry, message):
        text = json.dumps({"w": entry}).encode()
        path = tmp_path / "bad.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(InputError, match=message):
            read_safetensors(path)

    def test_a_type_that_is_not_known_concerns_only_who_reads_it(self, tmp_path):
        text = json.dumps(
            {
                "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "c": {"dtype": "C64", "shape": [1], "data_offsets": [8, 16]},
            }
        ).encode()
        path = tmp_path / "a.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + np.float32([1, 2]).tobytes() + bytes(8))
        found = read_safetensors(path)
        np.testing.assert_array_equal(found["w"].read(), [1, 2])
        with pytest.raises(InputError, match="c has the type C64"):
            found["c"].read()

    @pytest.mark.parametrize("text", [b"[]", b"{", b"\xff\xfe", b"[" * 100_000], ids=["list", "cut", "text", "deep"])
    def test_headers_that_are_none(self, tmp_path, text):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(InputError, match=r"bad.safetensors: the header of safetensors: (not|holds list|nested)"):
            read_safetensors(path)

    def test_a_failed_write_leaves_no_file(self, tmp_path):
        with pytest.raises(ValueError, match="was announced"):
            write_safetensors(tmp_path / "a.safetensors", {"w": ((2,), np.dtype("f4"))}, lambda _: np.zeros(3))
        assert list(tmp_path.iterdir()) == []


TREE = {"conv_in": {"kernel": np.ones((3, 3, 2, 4), np.float32)}, "layers": {"0": {"bias": np.arange(300.0)}}}


class TestFlaxMsgpack:
    def test_reads_what_flax_writes(self, tmp_path):
        path = tmp_path / "a.msgpack"
        many = {f"n{i:03}": value for i, value in enumerate([np.full(i, i, np.int32) for i in range(1, 80)])}
        bf16 = np.ones((2, 70000), np.float32).astype(ml_dtypes.bfloat16)
        path.write_bytes(flax.serialization.msgpack_serialize({**TREE, "many": many, "w": bf16}))
        expected = {
            "conv_in.kernel": TREE["conv_in"]["kernel"],
            "layers.0.bias": TREE["layers"]["0"]["bias"],
            **{f"many.{name}": value for name, value in many.items()},
            "w": bf16,
        }
        assert_read(read_flax_msgpack(path), expected)

    def test_every_way_of_cutting_is_noticed(self, tmp_path):
        whole = flax.serialization.msgpack_serialize(TREE)
        path = tmp_path / "cut.msgpack"
        for length in range(0, len(whole), 37):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"cut\.msgpack: cut short"):
                read_flax_msgpack(path)

    @pytest.mark.parametrize("value", [1, "text", [np.ones(2)], 1 + 2j, None])
    def test_anything_but_arrays_is_refused(self, tmp_path, value):
        path = tmp_path / "a.msgpack"
        path.write_bytes(flax.serialization.msgpack_serialize({"w": value}))
        with pytest.raises(InputError, match="not Flax's msgpack"):
            read_flax_msgpack(path)


class TestTorch:
    def test_pickles_are_never_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (print, ("run",))

        path = tmp_path / "evil.bin"
        path.write_bytes(pickle.dumps(Evil()))
        with pytest.raises(InputError, match=r"evil\.bin"):
            read_tensors(path)

    @pytest.mark.reference
    def test_weights_of_a_training_checkpoint(self, tmp_path):
        torch = pytest.importorskip("torch")
        state = {"conv.weight": torch.arange(6.0).reshape(2, 3)}
        for tree in (state, {"state_dict": state, "epoch": 3, "optimizer": {"exp_avg": torch.ones(2)}}):
            torch.save(tree, tmp_path / "a.ckpt")
            assert_read(read_tensors(tmp_path / "a.ckpt"), {"conv.weight": state["conv.weight"].numpy()})


class TestShards:
    state = arrays(["float32", "float16"])

    def test_tensors_come_from_their_files(self, tmp_path):
        index = save_sharded(tmp_path, "model", self.state, shards=2)
        assert_read(read_tensors(index), self.state)

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            ({}, "expected an index"),
            ({"weight_map": []}, "expected an index"),
            ({"weight_map": {"w": "../secret.safetensors"}}, "expected files beside it"),
            ({"weight_map": {"w": "/etc/passwd"}}, "expected files beside it"),
            ({"weight_map": {"w": 3}}, "expected files beside it"),
            ({"weight_map": {"w": "gone.safetensors"}}, r"1 of its 1 files are missing: gone\.safetensors"),
            ({"weight_map": {"w": "there.safetensors"}}, "not in the files it names: w"),
        ],
    )
    def test_faults_of_the_index(self, tmp_path, index, message):
        save(tmp_path / "there.safetensors", self.state)
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps(index))
        with pytest.raises(InputError, match=message):
            read_tensors(path)


def test_an_index_of_nested_lists(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deep"):
        read_tensors(path)


def test_order_of_preference(tmp_path):
    names = weight_names(["model", "pytorch_model"], "flax_model.msgpack")
    files = [
        "pytorch_model.bin",
        "flax_model.msgpack",
        "model.bf16.safetensors",
        "model.safetensors.index.fp16.json",
        "model.fp16.safetensors",
        "model.safetensors.index.json",
        "model.safetensors",
    ]
    assert find_weights(tmp_path, names) is None
    for name in files:  # each better than those before it
        (tmp_path / name).touch()
        assert find_weights(tmp_path, names) == tmp_path / name


def test_unknown_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends in one of \.safetensors"):
        read_tensors(tmp_path / "model.onnx")


@pytest.mark.parametrize("shape", [(), (5,), (300, 40), (70, 513), (3, 3, 257, 33), (1, 1, 4, 4)])
def test_contiguous_copies_of_views(shape):
    array = np.random.default_rng(0).normal(size=shape[::-1]).astype(np.float32)
    for view in (array.T, array, array[::-1] if array.ndim else array):
        for dtype in (np.float32, ml_dtypes.bfloat16):
            copy = contiguous(view, np.dtype(dtype))
            assert copy.flags.c_contiguous
            assert copy.ctypes.data % 64 == 0
            np.testing.assert_array_equal(copy, view.astype(dtype))
