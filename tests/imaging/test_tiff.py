"""TIFF files of every depth, order and division, and those whose first page is no photograph."""

import io as memory
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from tests.imaging import pictures

SIDE = 48
SHARES = np.linspace(0, 1, SIDE)[None].repeat(SIDE, 0)
RAMP = np.rint(255 * SHARES).astype(int)


def ramp(dtype: str, channels: int = 1, most: float | None = None) -> np.ndarray:
    kind = np.dtype(dtype)
    most = most or (1 if kind.kind == "f" else int(np.iinfo(kind).max))
    samples = (SHARES * most if kind.kind == "f" else np.rint(SHARES * most)).astype(kind)
    return samples if channels == 1 else np.stack([samples] * channels, -1)


def read(path, samples: np.ndarray, **options: Any) -> io.Picture:
    tifffile.imwrite(path / "a.tif", samples, **options)
    return pictures.read_in_8_bits(path / "a.tif")


def is_ramp(picture: io.Picture, falling: bool = False) -> bool:
    return bool(np.abs(picture.rgb.astype(int) - (255 - RAMP if falling else RAMP)[..., None]).max() <= 1)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4", "f8", "i2"])
def test_grey_of_every_type_rises_and_white_is_zero_falls(tmp_path, dtype, order, compression):
    for photometric in ("minisblack", "miniswhite"):
        picture = read(tmp_path, ramp(dtype), photometric=photometric, byteorder=order, compression=compression)
        assert is_ramp(picture, falling=photometric == "miniswhite")
        assert (picture.format, picture.frames, picture.alpha) == ("TIFF", 1, None)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_colours_and_alpha_in_planes_or_not(tmp_path, dtype, planes, order):
    samples = ramp(dtype, 4)
    samples[..., 1], samples[..., 3] = samples[::-1, ::-1, 1], samples[0, SIDE // 2, 0]
    samples = np.moveaxis(samples, -1, 0) if planes == "separate" else samples
    options = {"photometric": "rgb", "planarconfig": planes, "byteorder": order, "extrasamples": ["unassalpha"]}
    picture = read(tmp_path, samples, **options)
    assert np.abs(picture.rgb - np.stack([RAMP, RAMP[:, ::-1], RAMP], -1)).max() <= 1
    assert picture.alpha is not None
    assert np.abs(picture.alpha - RAMP[0, SIDE // 2]).max() <= 1


def test_colours_multiplied_by_their_alpha_are_divided(tmp_path):
    alpha = np.full((SIDE, SIDE), 0x4000, np.uint16)
    samples = np.dstack([np.rint(ramp("u2", 3) * (alpha / 65_535)[..., None]).astype(np.uint16), alpha])
    picture = read(tmp_path, samples, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(picture.rgb - RAMP[..., None]).max() <= 3
    assert np.array_equal(np.unique(picture.alpha), [64])


@pytest.mark.parametrize("dtype", ["u4", "i4", "f4", "i2"])
@pytest.mark.parametrize("most", [255, 65_535, 2**32 - 1])
def test_wide_types_hold_8_or_16_bits_or_are_full(tmp_path, dtype, most):
    kind = np.dtype(dtype)
    most = most if kind.kind == "f" else min(most, int(np.iinfo(kind).max))
    samples = np.rint(ramp("f8", most=most)).astype(kind)
    if kind.kind == "f" and most > 65_535:
        with pytest.raises(InputError, match=r"a\.tif: 32-bit samples from 0 to .* no agreed white, expected 0 to 1"):
            read(tmp_path, samples)
    else:
        assert is_ramp(read(tmp_path, samples))


@pytest.mark.parametrize(("most", "declared"), [(4095, 4095), (255, 255), (40_000, 65_535), (200, 65_535)])
def test_a_declared_maximum_is_white_and_a_measured_one_is_not(tmp_path, most, declared):
    samples = ramp("u2", most=most)
    picture = read(tmp_path, samples, extratags=[(281, "H", 1, most, True)])
    assert np.abs(picture.rgb[..., 0] - np.rint(samples * (255 / declared))).max() <= 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([[-5, 3]], np.int32), "from -5 to 3, expected numbers from 0"),
        (np.array([[0, 1.7]], np.float32), "from 0 to 1.7 have no agreed white, expected 0 to 1"),
        (np.array([[0, np.nan]], np.float32), "expected numbers from 0"),
        (np.array([[0, 70_000]], np.uint32), "no agreed white, expected values of 8 or 16 bits"),
    ],
)
def test_samples_without_a_range_are_refused(tmp_path, samples, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, samples)
    with pytest.raises(InputError, match=message):
        io.from_pil(Image.fromarray(samples.astype(np.float32 if samples.dtype.kind == "f" else np.int32)))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_samples(tmp_path, bits, channels, order):
    samples = np.rint(SHARES * (2**bits - 1)).astype(np.int64)
    (tmp_path / "a.tif").write_bytes(pictures.packed_tiff(np.stack([samples] * channels, -1), bits, order))
    assert is_ramp(pictures.read_in_8_bits(tmp_path / "a.tif"))


def test_16_bits_in_a_compression_that_pillow_decodes(tmp_path):
    grey = Image.fromarray(ramp("u2"))
    grey.save(tmp_path / "a.tif", compression="tiff_lzw")
    assert is_ramp(pictures.read_in_8_bits(tmp_path / "a.tif"))
    grey.save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={262: 0})
    assert is_ramp(pictures.read_in_8_bits(tmp_path / "a.tif"), falling=True)
    with Image.open(tmp_path / "a.tif") as image:
        assert is_ramp(io.from_pil(image), falling=True)


def test_profile_and_orientation_of_deep_samples(tmp_path):
    samples = ramp("u2", 3)
    samples[:16, :16] = (65_535, 0, 0)
    picture = read(tmp_path, samples[:32], iccprofile=pictures.grey_profile(1), extratags=[(274, "H", 1, 6, True)])
    assert picture.rgb.shape == (48, 32, 3)
    assert picture.rgb[4, -4].tolist() == [255, 0, 0]
    assert picture.warnings != ()  # a grey profile on colours


def test_a_deep_file_that_is_cut_is_refused(tmp_path):
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "a.tif", ramp("u2", 3), photometric="rgb", compression=compression, rowsperstrip=8)
        whole = (tmp_path / "a.tif").read_bytes()
        (tmp_path / "a.tif").write_bytes(whole[:-100])
        with pytest.raises(InputError, match=r"a\.tif: cannot be decoded, the file is damaged or cut short"):
            pictures.read_in_8_bits(tmp_path / "a.tif")


PHOTO = np.full((40, 60, 3), (10, 200, 30), np.uint8)
THUMBNAIL = np.full((8, 12, 3), (200, 0, 0), np.uint8)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_photograph_behind_a_thumbnail_is_read(tmp_path, bits):
    photo = PHOTO if bits == 8 else PHOTO.astype(np.uint16) * 257
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(THUMBNAIL, photometric="rgb", subfiletype=1)
        file.write(photo, photometric="rgb")
    picture = pictures.read_in_8_bits(tmp_path / "a.tif")
    assert picture.frames == 1
    assert np.array_equal(picture.rgb, PHOTO)


def test_the_photograph_below_a_thumbnail_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(THUMBNAIL, photometric="rgb", subfiletype=1, subifds=2)
        file.write(PHOTO[::2, ::2], photometric="rgb", subfiletype=0)
        file.write(PHOTO, photometric="rgb", subfiletype=0)
    assert np.array_equal(pictures.read_in_8_bits(tmp_path / "a.tif").rgb, PHOTO)


def test_smaller_copies_below_the_photograph_are_passed_over(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(PHOTO, photometric="rgb", subifds=1)
        file.write(PHOTO[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(PHOTO[..., 0] > 0, photometric="minisblack", subfiletype=4)  # a mask
    picture = pictures.read_in_8_bits(tmp_path / "a.tif")
    assert picture.rgb.shape == (40, 60, 3)
    assert picture.frames == 1


@pytest.mark.parametrize("kind", ["mosaic", "dng", "canon"])
def test_a_cameras_raw_file_is_refused_by_name(tmp_path, kind):
    path = tmp_path / f"{kind}.tif"
    with tifffile.TiffWriter(path) as file:
        version = [(50706, "B", 4, (1, 4, 0, 0), True)] if kind == "dng" else []
        file.write(THUMBNAIL, photometric="rgb", subfiletype=1, subifds=1, extratags=version)
        mosaic = {"photometric": 32803, "extratags": [(33421, "H", 2, (2, 2), True), (33422, "B", 4, bytes(4), True)]}
        file.write(ramp("u2"), **(mosaic if kind == "mosaic" else {"photometric": "minisblack"}))
    if kind == "canon":
        data = path.read_bytes()
        path.write_bytes(data[:8] + b"CR\x02\0" + data[12:])
    with pytest.raises(InputError, match=rf"{kind}\.tif: a camera's raw file, expected a developed picture"):
        pictures.read_in_8_bits(path)


def test_samples_that_nothing_decodes_are_refused_by_name(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp("f4", 3), photometric="rgb", compression="zlib")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    at = data.index(b"\x03\x01\x03\x00\x01\x00\x00\x00")  # the tag of the compression
    data[at + 8 : at + 10] = (5).to_bytes(2, "little")  # LZW
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif: 32-bit RGB samples with compression LZW are not read"):
        pictures.read_in_8_bits(tmp_path / "a.tif")


def test_nothing_is_logged_of_what_is_tolerated(tmp_path, capfd):
    file = memory.BytesIO()
    tifffile.imwrite(file, ramp("u2"), description="é".encode(), extratags=[(65_000, "s", 0, b"\xff\xff", True)])
    (tmp_path / "a.tif").write_bytes(file.getvalue())
    assert is_ramp(pictures.read_in_8_bits(tmp_path / "a.tif"))
    assert capfd.readouterr() == ("", "")


def test_pages_in_a_circle_are_refused_at_once(tmp_path):
    data = bytearray(pictures.encoded(Image.new("RGB", (4, 3)), "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * tags, start)  # the next page is the first
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif: damaged, its pages lead round in a circle"):
        io.read(tmp_path / "a.tif")
