"""What stands beside the pixels decides nothing about them, and what it says of their colours is not lost silently."""

import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from tests.imaging import pictures

PHOTOGRAPH = pictures.photograph()
PNG = pictures.encoded(Image.fromarray(PHOTOGRAPH), "PNG")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LARGE = np.random.default_rng(0).bytes(2**21)


def read(path, data: bytes) -> io.Picture:
    (path / "a").write_bytes(data)
    return io.read(path / "a")


# PNG


@pytest.mark.parametrize(
    "chunk",
    [
        pictures.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
        pictures.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**21))),
        pictures.chunk(b"tEXt", b"Comment\0" + bytes(2**21)),
        pictures.chunk(b"zTXt", b"Comment\0\0" + b"no stream"),
    ],
    ids=["zTXt", "iTXt", "tEXt", "damaged stream"],
)
def test_text_of_any_size_costs_nothing(tmp_path, chunk):
    picture = read(tmp_path, pictures.with_chunks(PNG, chunk))
    assert np.array_equal(picture.rgb, PHOTOGRAPH)
    assert picture.warnings == ()


@pytest.mark.parametrize("name", [b"tEXt", b"eXIf", b"gAMA", b"iCCP"])
def test_a_bad_check_sum_beside_the_pixels_is_a_warning(tmp_path, name):
    picture = read(tmp_path, pictures.with_chunks(PNG, pictures.chunk(name, b"abcd", sound=False)))
    assert np.array_equal(picture.rgb, PHOTOGRAPH)
    assert picture.warnings == (f"its chunk '{name.decode()}' is damaged and ignored",)


def test_a_text_behind_the_pixels_that_is_cut_is_a_warning(tmp_path):
    end = pictures.chunk(b"IEND", b"")
    picture = read(tmp_path, PNG.removesuffix(end) + pictures.chunk(b"tEXt", b"Comment\0Hello")[:-7])
    assert np.array_equal(picture.rgb, PHOTOGRAPH)
    assert picture.warnings == ("its chunk 'tEXt' is damaged and ignored",)


def test_a_bad_check_sum_of_pixels_is_damage(tmp_path):
    at = PNG.index(b"IDAT") + 20
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path, PNG[:at] + bytes([PNG[at] ^ 1]) + PNG[at + 1 :])
    with pytest.raises(InputError):  # transparency is pixels too
        read(tmp_path, pictures.with_chunks(PNG, pictures.chunk(b"tRNS", bytes(6), sound=False)))


def test_a_profile_of_any_size_is_carried(tmp_path):
    profile = pictures.chunk(b"iCCP", b"large\0\0" + zlib.compress(SRGB + LARGE))
    picture = read(tmp_path, pictures.with_chunks(PNG, profile))
    assert picture.icc == SRGB + LARGE
    damaged = read(tmp_path, pictures.with_chunks(PNG, pictures.chunk(b"iCCP", b"bad\0\0no stream")))
    assert damaged.icc is None
    assert damaged.warnings == ("its colour profile is damaged, so it is taken for sRGB",)


GAMMA, SRGB_GAMMA = (pictures.chunk(b"gAMA", value.to_bytes(4, "big")) for value in (100_000, 45_455))
WIDE, SRGB_COLORS = (
    pictures.chunk(b"cHRM", b"".join(value.to_bytes(4, "big") for value in values))
    for values in (
        (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
        (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    )
)


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([GAMMA], "gAMA 1"),
        ([WIDE, SRGB_GAMMA], "cHRM"),
        ([pictures.chunk(b"cICP", bytes([12, 13, 0, 1]))], "primaries 12 and transfer 13 of ITU-T H.273"),
        ([pictures.chunk(b"cICP", bytes([9, 16, 0, 1])), pictures.chunk(b"sRGB", b"\0")], "primaries 9"),
        ([SRGB_GAMMA, SRGB_COLORS], None),
        ([GAMMA, pictures.chunk(b"sRGB", b"\0")], None),
        ([GAMMA, pictures.chunk(b"iCCP", b"p\0\0" + zlib.compress(SRGB))], None),
        ([WIDE, pictures.chunk(b"cICP", bytes([1, 13, 0, 1]))], None),
    ],
)
def test_colours_that_are_not_srgb_are_told(tmp_path, chunks, found):
    warnings = read(tmp_path, pictures.with_chunks(PNG, *chunks)).warnings
    assert len(warnings) == (found is not None)
    assert found is None or f"not sRGB ({found}" in warnings[0]


# JPEG

BASELINE, PROGRESSIVE = (
    pictures.encoded(Image.fromarray(PHOTOGRAPH), "JPEG", progressive=progressive) for progressive in (False, True)
)
TRAILER = b"\0\0\x01\n\x0e\0\0\0Image_UTC_Data1500000000000SEFHk\0\0\0\x01\0\0\0\0\0\x01\n#\0\0\0\x24\0\0\0SEFT"
EMBEDDED = b"\0" + pictures.encoded(Image.new("RGB", (8, 8)), "JPEG")


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("tail", [b"", b"\xff", TRAILER, EMBEDDED], ids=["cut", "cut by one", "trailer", "embedded"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read_with_a_warning(tmp_path, data, tail):
    whole = read(tmp_path, data)
    picture = read(tmp_path, data[:-2] + tail)
    assert np.array_equal(picture.rgb, whole.rgb)
    assert picture.warnings in [("its end marker is missing, but no pixel is",), ()]  # Pillow may find one behind it
    assert whole.warnings == ()


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_trailer_behind_the_end_is_no_fault(tmp_path, data):
    assert read(tmp_path, data + TRAILER).warnings == ()


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_jpeg_that_lacks_more_is_refused(tmp_path, data):
    for missing in (4, 5, 6, 8, 20, 200, 1000):
        with pytest.raises(InputError, match="damaged or cut short"):
            read(tmp_path, data[:-missing])


def test_a_progressive_jpeg_cut_between_two_scans_is_refused(tmp_path):
    starts = [i for i in range(len(PROGRESSIVE)) if PROGRESSIVE[i : i + 2] in (b"\xff\xc4", b"\xff\xda")]
    for start in starts:
        with pytest.raises(InputError, match="damaged or cut short"):
            read(tmp_path, PROGRESSIVE[:start])


# WebP, JPEG 2000 and AVIF


@pytest.mark.parametrize("lossless", [True, False])
def test_metadata_of_a_webp_that_are_cut_are_a_warning(tmp_path, lossless):
    exif = Image.Exif()
    exif[0x010E] = "a description" * 100
    data = pictures.encoded(Image.fromarray(PHOTOGRAPH), "WEBP", lossless=lossless, exif=exif, icc_profile=SRGB)
    whole = read(tmp_path, data)
    for missing in (2, 1000):
        picture = read(tmp_path, data[:-missing])
        assert np.array_equal(picture.rgb, whole.rgb)
        assert picture.icc == SRGB
        assert picture.warnings == ("its chunk 'EXIF' is cut short and ignored",)
    with pytest.raises(InputError, match="damaged"):  # into the pixels
        read(tmp_path, data[: data.index(b"EXIF") - 100])


def test_a_profile_within_jpeg_2000_is_carried(tmp_path):
    data = pictures.encoded(Image.fromarray(PHOTOGRAPH), "JPEG2000")
    assert read(tmp_path, data).icc is None
    at = data.index(b"colr") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    colors = pictures.box(b"colr", b"\2\0\0", SRGB)
    header = data.index(b"jp2h") - 4
    grown = int.from_bytes(data[header : header + 4], "big") + len(colors) - length
    data = data[:header] + grown.to_bytes(4, "big") + data[header + 4 : at] + colors + data[at + length :]
    picture = read(tmp_path, data)
    assert picture.icc == SRGB
    assert picture.warnings == ()


def test_colours_of_an_avif_that_are_not_srgb_are_told(tmp_path):
    data = pictures.encoded(Image.fromarray(PHOTOGRAPH), "AVIF")
    assert read(tmp_path, data).warnings == ()
    at = data.index(b"nclx") + 4
    wide = data[:at] + b"\0\x0c\0\x0d" + data[at + 4 :]
    assert "primaries 12 and transfer 13" in read(tmp_path, wide).warnings[0]
    with_profile = pictures.encoded(Image.fromarray(PHOTOGRAPH), "AVIF", icc_profile=SRGB)
    picture = read(tmp_path, with_profile)
    assert (picture.icc, picture.warnings) == (SRGB, ())
