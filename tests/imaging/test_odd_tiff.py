"""TIFF files that few programs write, and damaged ones: each gives its picture or the true reason why not."""

import io as memory
import struct
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import tifffile
from PIL import Image

from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from tests.imaging import pictures

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262  # tags
SAMPLES, DECLARED, EXTRA, DEPTH = 277, 281, 338, 32997
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
    return pictures.read_in_8_bits(folder / "a.tif")


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize(
    ("photometric", "extra", "values", "expected"),
    [
        ("separated", "unspecified", (51, 204, 0, 51), (163, 41, 204)),
        ("separated", "unassalpha", (51, 204, 0, 51), (163, 41, 204)),
        ("separated", "assocalpha", (17, 68, 0, 17), (163, 41, 204)),  # multiplied by a third
        ("miniswhite", "unspecified", (51,), (204, 204, 204)),
        ("miniswhite", "unassalpha", (51,), (204, 204, 204)),
        ("miniswhite", "assocalpha", (187,), (204, 204, 204)),  # a third of 204 is 68, which is stored as 255 - 68
    ],
)
def test_an_extra_sample_beside_ink(tmp_path, photometric, extra, values, expected, planes, dtype):
    samples = np.tile(np.array([*values, 85]) * (1 if dtype == np.uint8 else 257), (6, 7, 1)).astype(dtype)
    samples = samples if planes == "contig" else np.moveaxis(samples, -1, 0)
    picture = read(tmp_path, encoded(samples, photometric=photometric, extrasamples=[extra], planarconfig=planes))
    assert picture.rgb[2, 3].tolist() == pytest.approx(expected, abs=1)
    assert (None if picture.alpha is None else picture.alpha[2, 3]) == (None if extra == "unspecified" else 85)


def test_the_profile_of_ink_beside_alpha_is_used(tmp_path):
    """A profile of another kind of colour says nothing of ink, and does not get into the result."""
    samples = np.tile(np.array([51, 204, 0, 51, 85], np.uint8), (6, 7, 1))
    options = {"photometric": "separated", "extrasamples": ["unassalpha"], "planarconfig": "contig"}
    picture = read(tmp_path, encoded(samples, **options, iccprofile=pictures.grey_profile(1)))
    assert picture.rgb[2, 3].tolist() == [163, 41, 204]
    assert picture.icc is None


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate", "tiff_lzw"])
@pytest.mark.parametrize(
    ("shape", "falls"),
    [((6, 7), False), ((6, 7), True), ((6, 7, 2), False), ((6, 7, 3), False), ((6, 7, 4), False)],
)
@pytest.mark.parametrize(("most", "declared", "white"), [(15, 15, 15), (15, 14, 255), (15, 255, 255), (16, 15, 255)])
def test_a_declared_white_of_8_bits(tmp_path, most, declared, white, shape, falls, compression):
    samples = np.zeros(shape, np.uint8)
    samples[2, 3], samples[2, 4] = 5, most
    file = memory.BytesIO()
    Image.fromarray(255 - samples if falls else samples).save(  # which stores a falling grey inverted
        file, "TIFF", compression=compression, tiffinfo={PHOTOMETRIC: 0, DECLARED: 1} if falls else {DECLARED: 1}
    )
    picture = read(tmp_path, with_tag(file.getvalue(), DECLARED, SHORT, 1, declared))
    found = 255 - picture.rgb if falls else picture.rgb
    planes = [*np.moveaxis(found, -1, 0), *([] if picture.alpha is None else [picture.alpha])]
    assert len(planes) == 3 + (shape[2:] in ((2,), (4,)))
    for plane in planes:
        assert plane[2, 3:5].tolist() == [round(5 * 255 / white), round(most * 255 / white)]


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize(("bits", "declared", "expected"), [(2, 1, 255), (4, 3, 85)])
@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate", "tiff_lzw"])
def test_a_declared_white_of_fewer_bits(tmp_path, bits, declared, expected, falls, compression):
    """Bytes of 8-bit grey, declared to hold several samples each: all are 0 but the first, which is 1."""
    packed = np.zeros((6, 7), np.uint8)
    packed[:, 0] = 1 << (8 - bits)
    file = memory.BytesIO()
    Image.fromarray(255 - packed if falls else packed).save(
        file, "TIFF", compression=compression, tiffinfo={PHOTOMETRIC: 0, DECLARED: 1} if falls else {DECLARED: 1}
    )
    data = with_tag(with_tag(file.getvalue(), WIDTH, SHORT, 1, 7 * 8 // bits), BITS, SHORT, 1, bits)
    found = read(tmp_path, with_tag(data, DECLARED, SHORT, 1, declared)).rgb[..., 0]
    assert np.unique(found[:, 0]).tolist() == [255 - expected if falls else expected]
    assert np.unique(found[:, 1:]).tolist() == [255 if falls else 0]


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize("compression", ["raw", "group4", "tiff_lzw"])
def test_a_declared_white_of_0_is_none(tmp_path, falls, compression):
    stored = np.arange(42).reshape(6, 7) % 3 == 0
    tags = {PHOTOMETRIC: 0} if falls else {PHOTOMETRIC: 1}
    file = memory.BytesIO()
    Image.fromarray(stored).save(file, "TIFF", compression=compression, tiffinfo=tags | {DECLARED: 1})
    found = read(tmp_path, with_tag(file.getvalue(), DECLARED, SHORT, 1, 0)).rgb[..., 0]
    np.testing.assert_array_equal(found, np.where(stored, 255, 0))


@pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow 12 does not read such files at all")
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_in_the_colours_beside_a_declared_white_is_refused_where_pillow_alone_decodes(tmp_path, mode):
    file = memory.BytesIO()
    Image.new(mode, (7, 6)).save(file, "TIFF", compression="tiff_lzw", tiffinfo={DECLARED: 1})
    data = with_tag(with_tag(file.getvalue(), DECLARED, SHORT, 1, 15), EXTRA, SHORT, 1, 1)
    with pytest.raises(
        InputError,
        match=r"a\.tif: 8-bit \w+ samples and 1 extra sample with compression LZW, multiplied by alpha and with a "
        "declared white below 255, are not read; save it without compression",
    ):
        read(tmp_path, data)
    assert read(tmp_path, with_tag(data, DECLARED, SHORT, 1, 14)).alpha is not None  # a statistic


def test_what_is_not_read_is_said_truly(tmp_path):
    samples = np.zeros((6, 7, 5), np.uint8)
    data = encoded(samples, photometric="separated", extrasamples=["unassalpha"], planarconfig="contig")
    with pytest.raises(
        InputError,
        match=r"a\.tif: cannot be decoded as 8-bit SEPARATED samples and 1 extra sample with compression LZW: such "
        "samples are not read, or the file is damaged; save it as RGB without compression",
    ):
        read(tmp_path, with_tag(data, COMPRESSION, SHORT, 1, 5))


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
