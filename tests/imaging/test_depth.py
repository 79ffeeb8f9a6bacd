"""A file with more than 8 bits for a sample keeps 16 or says so, whatever its format."""

from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from cassr_jax.imaging import depth, io
from tests.imaging import pictures

GREY = np.full((6, 7), 40_000, np.uint16)
COLORS = np.full((6, 7, 3), 40_000, np.uint16)


def tiff(samples: np.ndarray, **options) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (b"P6 7 6 # 255\n65535\n" + COLORS.astype(">u2").tobytes(), 16),
        (b"P5\n7 6 1000\n" + (GREY // 64).astype(">u2").tobytes(), 10),
        (pictures.encoded(Image.fromarray(GREY), "JPEG2000"), 16),
    ],
)
def test_bits_that_are_lost_are_told(tmp_path, data, bits):
    (tmp_path / "a").write_bytes(data)
    assert io.read(tmp_path / "a").warnings == (f"its {bits} bits per sample become 8",)


@pytest.mark.parametrize(
    ("data", "warnings"),
    [
        (pictures.png(GREY[..., None], 16, 0), ()),
        (pictures.png(COLORS, 16, 2), ()),
        (tiff(GREY), ()),
        (tiff(COLORS, photometric="rgb"), ()),
        (tiff((GREY / 65_535).astype(np.float32)), ("its 32 bits per sample become 16",)),
    ],
)
def test_16_bits_are_kept_where_they_can_be(tmp_path, data, warnings):
    (tmp_path / "a").write_bytes(data)
    picture = io.read(tmp_path / "a")
    np.testing.assert_array_equal(picture.rgb, np.full((6, 7, 3), 40_000, np.uint16))
    assert picture.warnings == warnings


def test_an_avif_tells_the_bits_of_each_channel():
    data = pictures.encoded(Image.new("RGB", (8, 8)), "AVIF")
    eight = b"pixi\0\0\0\0\3\x08\x08\x08"
    assert eight in data
    assert depth.bits_per_sample(data.replace(eight, b"pixi\0\0\0\0\3\x0a\x08\x08")) == 10


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000"])
def test_8_bits_lose_none(tmp_path, format):
    (tmp_path / "a").write_bytes(pictures.encoded(Image.new("RGB", (8, 8), "red"), format))
    assert io.read(tmp_path / "a").warnings == ()
