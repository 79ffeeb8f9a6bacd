"""What becomes of a colour profile: carried, converted, or told."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.ExifTags import IFD

from cassr_jax.imaging import io
from tests.imaging import pictures

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LINEAR = pictures.grey_profile(1)
GREYS = np.array([[0, 64, 160, 255]], np.uint8).repeat(8, 1).repeat(16, 0)


def srgb_of_linear(greys: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    light = greys / 255
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def is_converted(picture: io.Picture, tolerance: int = 1) -> bool:
    return bool(np.abs(picture.rgb - srgb_of_linear(GREYS)[..., None]).max() <= tolerance)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_grey_profile_is_converted(tmp_path, format):
    options = {"quality": 100} if format == "JPEG" else {}
    Image.fromarray(GREYS).save(tmp_path / "a", format, icc_profile=LINEAR, **options)
    picture = io.read(tmp_path / "a")
    assert is_converted(picture)
    assert (picture.icc, picture.warnings) == (None, ())
    with Image.open(tmp_path / "a") as image:
        assert np.array_equal(io.from_pil(image).rgb, picture.rgb)


def test_a_grey_profile_of_16_bits_and_beside_alpha(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREYS.astype(np.uint16) * 257, iccprofile=LINEAR)
    assert is_converted(io.read(tmp_path / "a.tif"))
    alpha = np.full_like(GREYS, 77)
    Image.fromarray(np.dstack([GREYS, alpha])).save(tmp_path / "a.png", icc_profile=LINEAR)
    picture = io.read(tmp_path / "a.png")
    assert is_converted(picture)
    assert np.array_equal(picture.alpha, alpha)


def test_a_grey_profile_in_a_file_that_holds_only_colours(tmp_path):
    Image.fromarray(GREYS).save(tmp_path / "a.webp", icc_profile=LINEAR, lossless=True)
    picture = io.read(tmp_path / "a.webp")
    assert is_converted(picture)
    assert (picture.icc, picture.warnings) == (None, ())


@pytest.mark.parametrize(
    ("image", "profile", "told"),
    [
        (Image.fromarray(GREYS), LINEAR[:140], "its grey profile is damaged"),
        (Image.new("RGB", (4, 4), "red"), LINEAR, "its profile describes GRAY colours"),
        (Image.new("RGB", (4, 4)), SRGB[:16] + b"CMYK" + SRGB[20:], "its profile describes CMYK colours"),
        (Image.new("CMYK", (4, 4)), SRGB[:16] + b"CMYK" + SRGB[20:], "its CMYK profile is damaged"),
        (Image.new("CMYK", (4, 4)), SRGB, "its profile describes RGB colours"),
    ],
)
def test_a_profile_that_does_not_fit_is_told(image, profile, told):
    image.info["icc_profile"] = profile
    picture = io.from_pil(image)
    assert picture.icc is None
    assert [told in line for line in picture.warnings] == [True]


def test_adobe_rgb_that_only_the_exif_tells(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[IFD.Interop] = {1: "R03"}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert io.read(tmp_path / "a.jpg").warnings == ("its EXIF says Adobe RGB, and it is taken for sRGB",)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif, icc_profile=SRGB)
    assert io.read(tmp_path / "a.jpg").warnings == ()
