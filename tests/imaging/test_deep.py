"""Pictures with 16 bits per sample: read, turned, restored and written without a loss."""

import io as streams
import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms

from cassr_jax.imaging import io, pixels, png16, tiff_writer
from cassr_jax.imaging.alpha import beside, shown
from cassr_jax.imaging.grey import as_grey_as, is_grey
from cassr_jax.imaging.metadata import Metadata
from cassr_jax.imaging.resizing import bicubic
from cassr_jax.imaging.side_chunks import PNG_SIGNATURE
from tests.imaging import pictures

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65_536, (11, 7, 3)).astype(np.uint16)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def filtered_png(samples: np.ndarray, filters: list[int]) -> bytes:
    """A PNG whose rows have these filters, written byte by byte as the standard says."""
    height, width, channels = samples.shape
    step, rows = 2 * channels, samples.astype(">u2").tobytes()
    stride, data = width * step, bytearray()
    for y, kind in enumerate(filters):
        data.append(kind)
        for x in range(stride):
            a = rows[y * stride + x - step] if x >= step else 0
            b = rows[(y - 1) * stride + x] if y else 0
            c = rows[(y - 1) * stride + x - step] if y and x >= step else 0
            near = min((a, b, c), key=lambda value: abs(a + b - c - value))
            data.append((rows[y * stride + x] - [0, a, b, (a + b) // 2, near][kind]) % 256)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(data))), (b"IEND", b"")
    chunks = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts)
    return PNG_SIGNATURE + b"".join(chunks)


@st.composite
def filtered(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)))
    return draw(arrays(np.uint16, shape)), draw(st.lists(st.integers(0, 4), min_size=shape[0], max_size=shape[0]))


@given(filtered())
def test_every_filter_of_a_png_is_undone(case: tuple[np.ndarray, list[int]]):
    samples, filters = case
    np.testing.assert_array_equal(png16.read(filtered_png(samples, filters)), samples)
    np.testing.assert_array_equal(png16.read(png16.written(samples, b"")), samples)


def test_neighbours_that_are_equally_near_are_taken_in_order():
    samples = RNG.integers(0, 4, (24, 24, 3)).astype(np.uint16) * 257
    np.testing.assert_array_equal(png16.read(filtered_png(samples, [4] * 24)), samples)


def test_pillow_reads_what_is_written():
    for channels in (1, 2, 3, 4):
        samples = RNG.integers(0, 65_536, (9, 8, channels)).astype(np.uint16)
        with Image.open(streams.BytesIO(png16.written(samples, b""))) as image:
            found = np.asarray(image)
        if channels == 1:
            np.testing.assert_array_equal(found, samples[..., 0])
        else:
            bands = [0, -1] if found.shape[-1] == 2 else range(channels)
            expected = samples[..., [0, 0, 0, 1]] if channels == 2 and found.shape[-1] == 4 else samples[..., bands]
            assert np.max(np.abs(found.astype(int) - (expected >> 8))) <= 1


@pytest.mark.parametrize("cut", [20, 60, -20])
def test_a_damaged_png_gives_no_deep_pixels(cut):
    assert png16.read(pictures.png(DEEP, 16, 2)[:cut]) is None


def test_a_png_that_unpacks_to_more_than_its_size_stops_there():
    whole = pictures.png(np.zeros((1000, 1000, 3), np.uint16), 16, 2)
    small = whole[:16] + struct.pack(">II", 4, 4) + whole[24:]
    assert png16.read(small).shape == (4, 4, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [None, RNG.integers(0, 256, (11, 7)).astype(np.uint8)])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_what_is_written_is_read_again(tmp_path, suffix, alpha, grey, deep):
    rgb = np.repeat(DEEP[..., :1], 3, axis=-1) if grey else DEEP
    picture = io.Picture(
        rgb if deep else pixels.shallow(rgb), alpha, grey, None if grey else ICC, metadata=Metadata(dpi=(300.0, 300.0))
    )
    assert io.write(tmp_path / f"a{suffix}", picture) == []
    found = io.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found.rgb, picture.rgb)
    assert found.rgb.dtype == picture.rgb.dtype
    if alpha is None:
        assert found.alpha is None
    else:
        np.testing.assert_array_equal(found.alpha, alpha)
    assert (found.grey, found.icc) == (grey, picture.icc)
    if suffix == ".tif" and deep and grey and alpha is not None:
        assert found.warnings == ("its metadata are dropped, since they stand beside samples of a rare kind",)
    else:
        assert (found.metadata.dpi, found.warnings) == ((300.0, 300.0), ())


def test_other_programs_read_a_tiff(tmp_path):
    samples = RNG.integers(0, 65_536, (400, 1000, 3)).astype(np.uint16)  # several strips
    metadata = Metadata(xmp=b"<x:xmpmeta/>", iptc=b"\x1c\x02\x05\0\x05title", texts={"Author": "me"})
    with (tmp_path / "a.tif").open("wb") as file:
        tiff_writer.write(file, samples, ICC, metadata)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page = tiff.pages[0]
        np.testing.assert_array_equal(page.asarray(), samples)
        assert len(page.dataoffsets) > 2
        assert page.tags["Artist"].value == "me"
        assert bytes(page.tags[34675].value) == ICC
        assert bytes(page.tags[700].value) == metadata.xmp
    with (tmp_path / "b.tif").open("wb") as file:
        tiff_writer.write(file, pixels.shallow(samples), None, metadata)
    with Image.open(tmp_path / "b.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels.shallow(samples))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_deep_picture_is_turned_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if suffix == ".png":
        small = streams.BytesIO()
        Image.new("RGB", (1, 1)).save(small, "PNG", exif=exif)
        (tmp_path / "a.png").write_bytes(png16.written(DEEP, png16.ancillary(small.getvalue())))
    else:
        tags = [(0x0112, 3, 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", extratags=tags)
    Image.fromarray(pixels.shallow(DEEP)).save(tmp_path / "8.png", exif=exif)
    found = io.read(tmp_path / f"a{suffix}")
    assert found.bits == 16
    np.testing.assert_array_equal(pixels.shallow(found.rgb), io.read(tmp_path / "8.png").rgb)


def test_colours_that_are_converted_have_8_bits(tmp_path):
    small = streams.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG", icc_profile=pictures.grey_profile(1))
    (tmp_path / "a.png").write_bytes(png16.written(DEEP[..., :1], png16.ancillary(small.getvalue())))
    found = io.read(tmp_path / "a.png")
    assert (found.bits, found.icc, found.warnings) == (8, None, ("its 16 bits per sample become 8",))


def test_bits_there_and_back():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(pixels.shallow(pixels.deepened(values)), values)
    all_of_them = np.arange(65_536, dtype=np.uint16)
    np.testing.assert_array_equal(pixels.to_integers(pixels.to_float(all_of_them), np.dtype(np.uint16)), all_of_them)
    np.testing.assert_allclose(pixels.to_float(pixels.deepened(values)), pixels.to_float(values), atol=2e-7)


def test_every_step_gives_the_same_picture_in_16_bits_as_in_8():
    small = pictures.photograph(40, 30)
    alpha = RNG.integers(0, 256, (40, 30)).astype(np.uint8)
    deep = pixels.deepened(small)
    steps = {
        "bicubic": lambda rgb: bicubic(rgb, (100, 75)),
        "shown": lambda rgb: shown(rgb, alpha),
        "beside": lambda rgb: beside(alpha, rgb, bicubic(rgb, (80, 60)))[0],
        "grey": lambda rgb: as_grey_as(rgb[..., :1].repeat(3, -1), rgb),
        "blend": lambda rgb: pixels.blended(rgb, rgb[::-1], 0.3),
    }
    for name, step in steps.items():
        expected, found = step(small), step(deep)
        assert found.dtype == np.uint16, name
        assert np.max(np.abs(found / 257 - expected)) <= (2 if name == "beside" else 1.5), (
            name
        )  # Pillow rounds to 8 bits between its two passes
    assert is_grey(steps["grey"](deep))
