"""Convolution weights from ncnn's model files: the network as text (`.param`) and its numbers in order (`.bin`).

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import is_file

_MAGIC = 7767517
_FLOAT16, _FLOAT32 = 0x01306B47, 0
_WITHOUT_WEIGHTS = {"Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp"}
_MAX_PARAM = 16 * 2**20  # bytes; 23 residual-in-residual dense blocks take 0.1 MB


@dataclass(frozen=True)
class Convolution:
    """One convolution: weight (out, in, kh, kw) as stored, float16 or float32; bias (out,) float32, or None."""

    name: str
    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class _Layer:
    name: str
    out_channels: int
    kernel: tuple[int, int]  # (kh, kw)
    count: int
    has_bias: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.out_channels, self.count // (self.out_channels * self.kernel[0] * self.kernel[1]), *self.kernel)


def read_ncnn(param: Path | str, weights: Path | str | None = None) -> list[Convolution]:
    """The convolutions of a network in file order; by default `weights` is the `.bin` beside `param`.

    The arrays are read-only views of the file's bytes. Sizes are checked against the file before memory is allocated.

    Raises:
        InputError: a file is absent, damaged or cut short, has bytes left over, or holds a layer with weights other
            than a convolution in float16 or float32.
    """
    param = Path(param)
    weights = param.with_suffix(".bin") if weights is None else Path(weights)
    layers = _read_layers(param)
    if not is_file(weights):
        raise InputError(f"{weights}: there is no such file, expected the weights of {param.name}")
    size = weights.stat().st_size
    least = sum(2 * layer.count + 4 * layer.out_channels * layer.has_bias for layer in layers)
    most = sum(4 + 4 * layer.count + 4 * layer.out_channels * layer.has_bias for layer in layers)
    if not least <= size <= most:
        raise InputError(f"{weights}: has {size} bytes, expected {least} to {most} for {param.name}")
    data = weights.read_bytes()
    convolutions, offset = [], 0
    for layer in layers:
        convolution, offset = _read_convolution(layer, data, offset, str(weights))
        convolutions.append(convolution)
    if offset != len(data):
        raise InputError(f"{weights}: has {len(data)} bytes, expected {offset} for {param.name}")
    return convolutions


def _read_convolution(layer: _Layer, data: bytes, offset: int, what: str) -> tuple[Convolution, int]:
    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal offset
        start, offset = offset, offset + count * np.dtype(dtype).itemsize
        if offset > len(data):
            raise InputError(f"{what}: cut short; {layer.name} ends at byte {offset} of {len(data)}")
        return np.frombuffer(data, dtype, count, start)

    tag = int(take("<u4", 1)[0])
    if tag not in (_FLOAT16, _FLOAT32):
        raise InputError(
            f"{what}: {layer.name} is stored as {tag:#010x}, expected float16 ({_FLOAT16:#010x}) or float32"
        )
    weight = take("<f2" if tag == _FLOAT16 else "<f4", layer.count)
    offset += -offset % 4
    bias = take("<f4", layer.out_channels) if layer.has_bias else None
    return Convolution(layer.name, weight.reshape(layer.shape), bias), offset


def _read_layers(path: Path) -> list[_Layer]:
    if not is_file(path):
        raise InputError(f"{path}: there is no such file, expected a network in ncnn's text form")
    if path.stat().st_size > _MAX_PARAM:
        raise InputError(f"{path}: has {path.stat().st_size} bytes, expected at most {_MAX_PARAM} of ncnn's text form")
    try:
        lines = path.read_text("ascii").splitlines()
        if int(lines[0]) != _MAGIC:
            raise ValueError
        count = int(lines[1].split()[0])
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: not a network in ncnn's text form, expected {_MAGIC} at its beginning") from error
    rows = [(number, line.split()) for number, line in enumerate(lines[2:], start=3) if line.strip()]
    if len(rows) != count:
        raise InputError(f"{path}: holds {len(rows)} layers, expected {count} as in its second line")
    layers = []
    for number, fields in rows:
        if fields[0] == "Convolution":
            layers.append(_parse_convolution(fields, f"{path}: line {number}"))
        elif fields[0] not in _WITHOUT_WEIGHTS:
            raise InputError(f"{path}: line {number} is a layer {fields[0]}, expected a network of convolutions")
    return layers


def _parse_convolution(fields: list[str], what: str) -> _Layer:
    try:
        _, name, inputs, outputs, *rest = fields
        pairs = [pair.split("=") for pair in rest[int(inputs) + int(outputs) :]]
        values = {int(key): value for key, value in pairs}
        out, width, count = (int(values[key]) for key in (0, 1, 6))
        height, has_bias, int8 = (int(values.get(key, default)) for key, default in ((11, width), (5, 0), (8, 0)))
    except (ValueError, KeyError) as error:
        raise InputError(f"{what} is a damaged Convolution ({error})") from error
    if int8:
        raise InputError(f"{what} is a Convolution in 8-bit integers, expected float16 or float32")
    if min(out, width, height, count) < 1 or count % (out * width * height):
        raise InputError(f"{what}: {count} weights do not divide into {out} kernels of {height}x{width}")
    return _Layer(name, out, (height, width), count, bool(has_bias))
