"""TIFF files that few programs write, and damaged ones: each gives its picture or the true reason why not."""

import io as memory
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cassr_jax.errors import InputError
from cassr_jax.imaging import io

WIDTH, LENGTH, BITS, PHOTOMETRIC, SAMPLES, DEPTH = 256, 257, 258, 262, 277, 32997  # tags
SHORT, LONG, RATIONAL, FLOAT = 3, 4, 5, 11  # types of tags


def encoded(samples: np.ndarray, **options: Any) -> bytes:
    file = memory.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def with_tag(data: bytes, number: int, kind: int, count: int, value: int) -> bytes:
    """The file with another type, count and value of one tag in its first directory."""
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, at) == (number,):
            return data[:at] + struct.pack("<HHII", number, kind, count, value) + data[at + 12 :]
    raise AssertionError(f"no tag {number}")


def read(folder: Path, data: bytes) -> io.Picture:
    (folder / "a.tif").write_bytes(data)
    return io.read(folder / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize(
    ("extra", "alpha"),
    [
        (["unspecified", "unassalpha"], 1),
        (["unassalpha", "unspecified"], 0),
        (["unspecified", "unspecified"], None),
    ],
)
def test_of_several_extra_samples_one_is_alpha(tmp_path, colors, extra, alpha, dtype):
    values = [*[10, 200, 30][:colors], 90, 160]
    samples = np.tile(np.array(values) * (1 if dtype == np.uint8 else 257), (6, 7, 1)).astype(dtype)
    photometric = "rgb" if colors == 3 else "minisblack"
    picture = read(tmp_path, encoded(samples, photometric=photometric, extrasamples=extra, planarconfig="contig"))
    assert picture.rgb[2, 3].tolist() == (values[:3] if colors == 3 else [10] * 3)
    assert (None if picture.alpha is None else picture.alpha[2, 3]) == (
        None if alpha is None else values[colors + alpha]
    )


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_palette_of_16_bits(tmp_path, compression):
    palette = np.zeros((3, 2**16), np.uint16)
    palette[:, 40_000] = 255 * 257, 128 * 257, 7 * 257
    samples = np.zeros((6, 7), np.uint16)
    samples[2, 3] = 40_000
    picture = read(tmp_path, encoded(samples, photometric="palette", colormap=palette, compression=compression))
    assert picture.rgb[2, 3].tolist() == [255, 128, 7]
    assert picture.rgb.sum() == 255 + 128 + 7


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_volume_is_refused_before_it_is_decoded(tmp_path, dtype):
    data = encoded(np.zeros((4, 16, 16), dtype), volumetric=True, tile=(2, 16, 16), photometric="minisblack")
    with pytest.raises(InputError, match=r"a\.tif: a volume, 4 planes deep, expected a picture; save one plane"):
        read(tmp_path, data)
    with pytest.raises(InputError, match=r"a\.tif: a volume, 2147483647 planes deep"):
        read(tmp_path, with_tag(data, DEPTH, LONG, 1, 2**31 - 1))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_numbers_are_refused(tmp_path, dtype):
    with pytest.raises(InputError, match=r"a\.tif: holds complex numbers, expected real ones"):
        read(tmp_path, encoded(np.full((6, 7), 0.5 + 0.5j, dtype)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("tag", "kind", "count", "value", "message"),
    [
        (WIDTH, RATIONAL, 1, 8, r"its width is '\(.*\)', expected a whole number; the file is damaged"),
        (LENGTH, FLOAT, 1, 0x7F000000, r"its height is '1\.7.*', expected a whole number; the file is damaged"),
        (WIDTH, SHORT, 2, 0x00080008, r"its width is '\(8, 8\)', expected a whole number; the file is damaged"),
        (SAMPLES, RATIONAL, 1, 8, r"its samples is '\(.*\)', expected a whole number|cannot be decoded"),
        (SAMPLES, LONG, 1, 2**31 - 1, "7x6 pixels of 2147483647 samples each, expected at most 268435456 samples"),
        (BITS, SHORT, 1, 5, "cannot be decoded|5-bit RGB samples"),
        (PHOTOMETRIC, SHORT, 1, 8, "cannot be decoded as 16-bit CIELAB samples with compression NONE|.*mode LAB"),
    ],
)
def test_a_damaged_tag_is_one_sentence(tmp_path, tag, kind, count, value, message, dtype):
    data = encoded(np.full((6, 7, 3), 50, dtype), photometric="rgb")
    with pytest.raises(InputError, match=rf"a\.tif: ({message})"):
        read(tmp_path, with_tag(data, tag, kind, count, value))


def test_a_width_that_is_no_number_costs_no_memory(tmp_path):
    """Two numbers times a height of two thousand million would be a list of that length."""
    data = with_tag(encoded(np.zeros((6, 7, 3), np.uint8), photometric="rgb"), LENGTH, LONG, 1, 2**31 - 1)
    with pytest.raises(InputError, match=r"a\.tif: its width is '\(.*\)', expected a whole number"):
        read(tmp_path, with_tag(data, WIDTH, RATIONAL, 1, 8))


def test_a_decoder_that_asks_for_too_much_memory_is_an_input_error(tmp_path, monkeypatch):
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tifffile.TiffPage, "asarray", exhausted)
    with pytest.raises(InputError, match=r"a\.tif: does not fit into memory while it is decoded"):
        read(tmp_path, encoded(np.zeros((6, 7, 3), np.uint16), photometric="rgb"))
