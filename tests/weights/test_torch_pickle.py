"""Files of torch.save are read as data: same tensors, nothing run, nothing claimed beyond the file."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.errors import InputError
from cassr_jax.weights import torch_pickle
from cassr_jax.weights.tensors import ForeignTensor


def read_torch(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in torch_pickle.read_torch(path).items()}


class _Name:
    """Pickles as the global `module.name`, as torch's functions and storage types do."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class _Call:
    def __init__(self, function: _Name, *arguments):
        self.function, self.arguments = function, arguments


class _Stored:
    def __init__(self, *identity):
        self.identity = identity


class _Pickler(pickle._Pickler):  # the one in Python can write globals that are not importable
    def persistent_id(self, obj):
        return obj.identity if isinstance(obj, _Stored) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, _Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def _pickled(obj) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(obj)
    return stream.getvalue()


def _tensor(key, count, shape, strides, offset=0, kind="FloatStorage", function="_rebuild_tensor_v2", legacy=False):
    identity = ("storage", _Name("torch", kind), key, "cpu", count, *([None] if legacy else []))
    return _Call(_Name("torch._utils", function), _Stored(*identity), offset, shape, strides, False, OrderedDict())


def _write_zip(path: Path, tree, storages: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", _pickled(tree))
        archive.writestr("archive/byteorder", b"little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def _write_legacy(path: Path, tree, storages: dict[str, np.ndarray]) -> Path:
    parts = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}, tree, list(storages)]
    data = b"".join(map(_pickled, parts))
    path.write_bytes(data + b"".join(struct.pack("<q", value.size) + value.tobytes() for value in storages.values()))
    return path


VALUES = np.arange(12, dtype=np.float32)


def test_nested_shared_and_strided_tensors(tmp_path):
    tree = {
        "params_ema": OrderedDict(whole=_tensor("0", 12, (3, 4), (4, 1)), turned=_tensor("0", 12, (4, 3), (1, 4))),
        "part": _tensor("0", 12, (2,), (5,), offset=1),
        "scalar": _tensor("0", 12, (), (), offset=7),
        "empty": _tensor("0", 12, (0, 3), (3, 1)),
        "epoch": 3,
        "name": "x",
    }
    result = read_torch(_write_zip(tmp_path / "a.pth", tree, {"0": VALUES.tobytes()}))
    assert set(result) == {"params_ema.whole", "params_ema.turned", "part", "scalar", "empty"}
    np.testing.assert_array_equal(result["params_ema.whole"], VALUES.reshape(3, 4))
    np.testing.assert_array_equal(result["params_ema.turned"], VALUES.reshape(3, 4).T)
    np.testing.assert_array_equal(result["part"], [1, 6])
    assert result["scalar"].shape == ()
    assert result["scalar"] == 7
    assert result["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_both_formats_keep_the_type(tmp_path, kind, dtype):
    values = np.array([1, 0, 5, 2]).astype(dtype)
    new = _write_zip(tmp_path / "new.pth", {"w": _tensor("7", 4, (2, 2), (2, 1), kind=kind)}, {"7": values.tobytes()})
    old = _write_legacy(
        tmp_path / "old.pth", {"w": _tensor("7", 4, (2, 2), (2, 1), kind=kind, legacy=True)}, {"7": values}
    )
    for path in (new, old):
        result = read_torch(path)["w"]
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, values.reshape(2, 2))


def test_several_legacy_storages_in_their_order(tmp_path):
    tree = {name: _tensor(key, 12, (12,), (1,), legacy=True) for name, key in (("a", "9"), ("b", "5"))}
    result = read_torch(_write_legacy(tmp_path / "a.pth", tree, {"5": VALUES, "9": VALUES * 2}))
    np.testing.assert_array_equal(result["a"], VALUES * 2)
    np.testing.assert_array_equal(result["b"], VALUES)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch.storage", "_load_from_bytes")],
)
def test_a_hostile_pickle_is_not_run(tmp_path, module, name):
    mark = tmp_path / "mark"
    call = _Call(_Name(module, name), f"touch {mark}")
    for tree, message in (({"w": call}, rf"w has the type {module}\.{name}"), (call, rf"it holds a {module}\.{name}")):
        with pytest.raises(InputError, match=message):
            read_torch(_write_zip(tmp_path / "new.pth", tree, {}))
        with pytest.raises(InputError, match=message):
            read_torch(_write_legacy(tmp_path / "old.pth", tree, {}))
    assert not mark.exists()


def test_pickles_own_way_to_call_is_not_taken(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"w": Hostile()}, protocol=4))
    with pytest.raises(InputError, match="mkdir"):
        read_torch(tmp_path / "a.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_tensor("0", 12, (13,), (1,)), "reaches beyond"),
        (_tensor("0", 12, (2,), (1,), offset=11), "reaches beyond"),
        (_tensor("0", 12, (1000, 1000), (0, 0)), "reaches beyond"),
        (_tensor("0", 12, (-1,), (1,)), "damaged"),
        (_tensor("0", 12, (2,), (-1,), offset=3), "damaged"),
        (_tensor("0", 12, (2, 2), (1,)), "damaged"),
        (_tensor("0", 12, (1.5,), (1,)), "damaged"),
        (_tensor("0", 2**40, (2,), (1,)), "48 bytes long"),
        (_tensor("1", 12, (2,), (1,)), "missing"),
        (_tensor("0", 12, (2,), (1,), kind="ComplexFloatStorage"), "ComplexFloatStorage"),
        (_tensor("0", 12, (2,), (1,), function="_rebuild_sparse_tensor"), "_rebuild_sparse_tensor"),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage(tmp_path, tensor, message):
    with pytest.raises(InputError, match=message):
        read_torch(_write_zip(tmp_path / "a.pth", {"w": tensor}, {"0": VALUES.tobytes()}))


def test_nested_keys_and_endless_dictionaries(tmp_path):
    # {t: None} for t = (t', t'), t' = (t'', t''), ...: hashing the key would take 2**64 steps.
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        pairs = b"".join(b"q%ch%c\x86" % (i, i) for i in range(64))
        archive.writestr("a/data.pkl", b"\x80\x02})" + pairs + b"Ns.")
    assert read_torch(tmp_path / "a.pth") == {}
    endless: dict = {}
    endless["again"] = endless
    with pytest.raises(InputError, match="deep"):
        read_torch(_write_zip(tmp_path / "b.pth", endless, {}))
    wide: dict = {}
    for _ in range(7):
        wide = dict.fromkeys(map(str, range(20)), wide)
    with pytest.raises(InputError, match="entries"):
        read_torch(_write_zip(tmp_path / "c.pth", wide, {}))


class _Callback:
    """As Lightning has them: an object that its pickle makes from its class and then fills."""

    def __init__(self):
        self.best, self.scores = 0.5, {1.5: "a"}


def test_what_lies_beside_the_weights_is_inert(tmp_path):
    neighbours = {
        "callbacks": {_Name("pytorch_lightning.callbacks", "ModelCheckpoint"): {"best": 0.5}},
        "dtype": np.dtype("float32"),
        "seen": {1, 2},
        "loop": _Callback(),
        "sparse": _tensor("0", 12, (2,), (1,), function="_rebuild_sparse_tensor"),
        "complex": _tensor("1", 12, (2,), (1,), kind="ComplexFloatStorage"),
    }
    tree = {"state_dict": {"w": _tensor("0", 12, (3, 4), (4, 1))}, **neighbours}
    found = torch_pickle.read_torch(_write_zip(tmp_path / "a.ckpt", tree, {"0": VALUES.tobytes()}))
    np.testing.assert_array_equal(found.pop("state_dict.w").read(), VALUES.reshape(3, 4))
    assert all(isinstance(tensor, ForeignTensor) for tensor in found.values())
    assert found.keys() == {"dtype", "seen", "loop", "sparse", "complex"}


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    tree = {"w": _tensor("0", 12, (12,), (1,)), "v": _tensor("1", 12, (12,), (1,))}
    path = _write_zip(tmp_path / "a.pth", tree, {"0": VALUES.tobytes(), "1": (VALUES + 0.5).tobytes()})
    path.write_bytes(path.read_bytes().replace((VALUES + 0.5).tobytes(), bytes(48)))  # its check sum is now wrong
    found = torch_pickle.read_torch(path)
    np.testing.assert_array_equal(found["w"].read(), VALUES)
    with pytest.raises(InputError, match="damaged"):
        found["v"].read()


def test_archives_that_are_not_torchs(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_torch(tmp_path / "none.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(InputError, match="empty"):
        read_torch(tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    with pytest.raises(InputError, match="neither"):
        read_torch(tmp_path / "text.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(InputError, match=r"data\.pkl"):
        read_torch(tmp_path / "other.pth")
    tree = {"w": _tensor("0", 12, (12,), (1,))}
    bomb = _write_zip(tmp_path / "bomb.pth", tree, {"0": bytes(48)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        read_torch(bomb)
    with pytest.raises(InputError, match="a list"):
        read_torch(_write_zip(tmp_path / "list.pth", [1], {}))


def _good_files(folder: Path) -> list[bytes]:
    new = _write_zip(folder / "n.pth", {"w": _tensor("0", 12, (3, 4), (4, 1))}, {"0": VALUES.tobytes()})
    old = _write_legacy(folder / "o.pth", {"w": _tensor("0", 12, (3, 4), (4, 1), legacy=True)}, {"0": VALUES})
    return [new.read_bytes(), old.read_bytes()]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(data.draw(st.sampled_from(_good_files(folder))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)) | st.just(len(content)))]
    (folder / "x.pth").write_bytes(content)
    try:
        result = read_torch(folder / "x.pth")
    except InputError:
        return
    assert all(value.nbytes <= len(content) for value in result.values())


@pytest.mark.reference
@pytest.mark.parametrize("new", [True, False])
def test_against_torch(tmp_path, new):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    base = torch.randn(5, 6)
    tree = {
        "params_ema": net.state_dict(),
        "kept": {"turned": base.T, "part": base[1:3, 2:], "half": base.half(), "brain": base.bfloat16()},
        "parameter": torch.nn.Parameter(base[0]),
        "iteration": 7,
    }
    torch.save(tree, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    result = read_torch(tmp_path / "a.pth")
    expected = {f"params_ema.{name}": value for name, value in net.state_dict().items()}
    expected |= {f"kept.{name}": value for name, value in tree["kept"].items()} | {"parameter": base[0]}
    assert set(result) == set(expected)
    for name, value in expected.items():
        assert result[name].shape == tuple(value.shape)
        np.testing.assert_array_equal(result[name].astype(np.float64), value.double().numpy())
