"""Files in ncnn's format, made here: every byte is read back, and damage is named."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.errors import InputError
from cassr_jax.weights.ncnn import read_ncnn

FLOAT16, FLOAT32 = 0x01306B47, 0


def write_ncnn(path: Path, convolutions: list[tuple[np.ndarray, np.ndarray | None]], tag: int = FLOAT16) -> Path:
    """A network of convolutions in a row, as `path` (.param) and the `.bin` beside it."""
    lines, data = ["Input  data  0 1 b0"], b""
    for i, (weight, bias) in enumerate(convolutions):
        out, _, height, width = weight.shape
        kernel = f"1={width}" + (f" 11={height}" if height != width else "")
        lines.append(
            f"Convolution  conv_{i}  1 1 b{i} b{i + 1} 0={out} {kernel} 4={width // 2}"
            f" 5={int(bias is not None)} 6={weight.size} 9=2 -23310=1,2.000000e-01"
        )
        numbers = weight.astype("<f2" if tag == FLOAT16 else "<f4").tobytes()
        data += struct.pack("<I", tag) + numbers + b"\0" * (-len(numbers) % 4)
        data += b"" if bias is None else bias.astype("<f4").tobytes()
    path.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    path.with_suffix(".bin").write_bytes(data)
    return path


def random_convolution(rng: np.random.Generator, *shape: int, bias: bool = True):
    return rng.normal(size=shape).astype(np.float16), rng.normal(size=shape[0]).astype(np.float32) if bias else None


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 3)), max_size=4),
    st.sampled_from([FLOAT16, FLOAT32]),
    st.booleans(),
)
def test_reads_what_was_written(tmp_path_factory, shapes, tag, bias):
    rng = np.random.default_rng(len(shapes))
    expected = [random_convolution(rng, *shape, bias=bias) for shape in shapes]
    found = read_ncnn(write_ncnn(tmp_path_factory.mktemp("ncnn") / "net.param", expected, tag))
    assert [convolution.name for convolution in found] == [f"conv_{i}" for i in range(len(shapes))]
    for convolution, (weight, offset) in zip(found, expected, strict=True):
        assert convolution.weight.dtype == (np.float16 if tag == FLOAT16 else np.float32)
        np.testing.assert_array_equal(convolution.weight, weight)
        np.testing.assert_array_equal(convolution.bias, offset)


@pytest.fixture
def net(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    return write_ncnn(
        tmp_path / "net.param", [random_convolution(rng, 3, 3, 3, 3), random_convolution(rng, 5, 3, 1, 1)]
    )


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7767517", "7767518", "not a network in ncnn's text form, expected 7767517 at its beginning"),
        ("3 3\n", "4 3\n", "holds 3 layers, expected 4 as in its second line"),
        ("3 3\n", "\n", "not a network in ncnn's text form"),
        ("Input", "InnerProduct", "line 3 is a layer InnerProduct"),
        ("0=3", "0=three", "line 4 is a damaged Convolution"),
        ("6=81", "7=81", r"line 4 is a damaged Convolution \(6\)"),
        ("6=81", "6=82", "line 4: 82 weights do not divide into 3 kernels of 3x3"),
        ("0=3", "0=0", "do not divide into 0 kernels"),
        ("5=1", "5=1 8=2", "8-bit integers"),
        ("5=1", "5=0", "conv_1 is stored as 0x"),
        ("6=81", "6=8100000000000", r"net.bin: has 236 bytes, expected \d+ to \d+ for net.param"),
        ("Convolution  conv_0  1 1", "Convolution  conv_0  1 ä", "not a network in ncnn's text form"),
    ],
)
def test_damaged_param(net, old, new, message):
    replace(net, old, new)
    with pytest.raises(InputError, match=message):
        read_ncnn(net)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-4], "cut short; conv_1 ends at byte 236 of 232"),
        (lambda data: data + b"\0\0\0\0", "has 240 bytes, expected 236 for net.param"),
        (lambda data: b"", "has 0 bytes, expected"),
        (lambda data: data + bytes(1000), "has 1236 bytes, expected"),
        (lambda data: b"\x38\x4b\x0d\x00" + data[4:], "conv_0 is stored as 0x000d4b38, expected float16"),
        (lambda data: bytes(4) + data[4:], "cut short; conv_0 ends at byte 328 of 236"),
    ],
)
def test_damaged_bin(net, damage, message):
    path = net.with_suffix(".bin")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        read_ncnn(net)


def test_absent_files(net):
    net.with_suffix(".bin").unlink()
    with pytest.raises(InputError, match=r"net.bin: there is no such file"):
        read_ncnn(net)
    with pytest.raises(InputError, match=r"other.param: there is no such file"):
        read_ncnn(net.with_name("other.param"))
    net.write_bytes(b"0" * (16 * 2**20 + 1))
    with pytest.raises(InputError, match="expected at most"):
        read_ncnn(net)
