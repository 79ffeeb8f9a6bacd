import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from cassr_jax.errors import InputError
from cassr_jax.imaging import io, resizing
from cassr_jax.imaging.grey import is_grey
from tests.imaging import pictures

ROOT_IMPORTS = "import sys, cassr_jax.imaging.io, cassr_jax.imaging.inputs; print('jax' in sys.modules)"


def enlarge(rgb):
    return resizing.bicubic(rgb, resizing.output_size(*rgb.shape[:2], 4))


def named(files):
    return [pytest.param(name, data, id=name) for name, data in files]


def red_corner():
    """48 rows of 64, white, with a red square at the top left."""
    rgb = np.full((48, 64, 3), 255, np.uint8)
    rgb[:16, :16] = (255, 0, 0)
    return rgb


# --- orientation ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(tmp_path, orientation, format):
    exif = Image.Exif()
    exif[io.EXIF_ORIENTATION] = orientation
    path = tmp_path / f"phone.{format.lower()}"
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    path.write_bytes(pictures.encoded(Image.fromarray(red_corner()), format, exif=exif, **options))

    # Where a viewer shows the stored top left corner: EXIF 2.3, table of tag 0x0112.
    row, column = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    height, width = (48, 64) if orientation <= 4 else (64, 48)
    with Image.open(path) as image:
        results = [io.read(path).rgb, np.asarray(io.upscale(image, lambda rgb: rgb))]
    for rgb in results:
        assert rgb.shape == (height, width, 3)
        for i, j in np.ndindex(2, 2):
            patch = rgb[i * (height - 8) : i * (height - 8) + 8, j * (width - 8) : j * (width - 8) + 8].astype(int)
            expected = (255, 0, 0) if (i, j) == (row, column) else (255, 255, 255)
            assert np.abs(patch - expected).mean() < 6


def test_no_orientation_tag_is_left(tmp_path):
    exif = Image.Exif()
    exif[io.EXIF_ORIENTATION] = 6
    Image.fromarray(red_corner()).save(tmp_path / "in.jpg", exif=exif)
    for suffix in io.OUTPUT_FORMATS:
        io.write(tmp_path / f"out{suffix}", io.upscale(io.read(tmp_path / "in.jpg"), enlarge))
        with Image.open(tmp_path / f"out{suffix}") as result:
            assert result.size == (192, 256)
            assert result.getexif().get(io.EXIF_ORIENTATION, 1) == 1
    with Image.open(tmp_path / "in.jpg") as image:
        assert io.EXIF_ORIENTATION not in io.upscale(image, enlarge).getexif()


def test_damaged_metadata_does_not_cost_the_picture(tmp_path):
    data = pictures.encoded(Image.fromarray(red_corner()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff junk")
    (tmp_path / "a.jpg").write_bytes(data)
    assert io.read(tmp_path / "a.jpg").rgb.shape == (48, 64, 3)


# --- modes ---

RAMP = np.linspace(0, 255, 48).round().astype(np.uint8)[None].repeat(48, 0)
RAMP16 = np.linspace(0, 65535, 48).round().astype(np.uint16)[None].repeat(48, 0)


def ramp_files():
    grey = Image.fromarray(RAMP)
    opaque = np.full_like(RAMP16, 65535)
    yield "L.png", pictures.encoded(grey, "PNG")
    yield "LA.png", pictures.encoded(grey.convert("LA"), "PNG")
    yield "P.png", pictures.encoded(grey.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE), "PNG")
    yield "grey16.png", pictures.png(RAMP16[..., None], 16, 0)
    yield "rgb16.png", pictures.png(np.stack([RAMP16] * 3, -1), 16, 2)
    yield "la16.png", pictures.png(np.stack([RAMP16, opaque], -1), 16, 4)
    yield "rgba16.png", pictures.png(np.stack([RAMP16] * 3 + [opaque], -1), 16, 6)
    yield "grey16.tiff", pictures.encoded(Image.fromarray(RAMP16), "TIFF")
    yield "big_endian.tiff", pictures.encoded(Image.fromarray(RAMP16.astype(">u2")), "TIFF")
    yield "grey16.pgm", b"P5 48 48 65535\n" + RAMP16.astype(">u2").tobytes()
    yield "int32.tiff", pictures.encoded(Image.fromarray(RAMP16.astype(np.int32)), "TIFF")
    yield "rgb.bmp", pictures.encoded(grey.convert("RGB"), "BMP")
    yield "hsv.webp", pictures.encoded(grey.convert("RGB"), "WEBP", lossless=True)


@pytest.mark.parametrize(("name", "data"), named(ramp_files()))
def test_every_depth_of_one_ramp_is_the_8_bit_ramp(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    picture = pictures.read_in_8_bits(tmp_path / name)
    assert picture.rgb.dtype == np.uint8
    assert np.abs(picture.rgb.astype(int) - RAMP[..., None]).max() <= 1
    assert picture.alpha is None or picture.alpha.min() == 255


def test_1_bit(tmp_path):
    Image.fromarray(RAMP > 127).save(tmp_path / "a.png")
    assert np.array_equal(io.read(tmp_path / "a.png").rgb, np.where(RAMP > 127, 255, 0)[..., None].repeat(3, -1))


def test_a_mode_without_a_range_is_refused():
    with pytest.raises(InputError, match="no agreed range"):
        io.from_pil(Image.new("LAB", (4, 4)))


@pytest.mark.parametrize("most", [255, 65_535])
def test_32_bits_from_memory_hold_8_or_16(most):
    for samples in (np.int32(RAMP) * (most // 255), np.float32(RAMP) * (most // 255), np.float32(RAMP) / 255):
        assert np.abs(io.from_pil(Image.fromarray(samples)).rgb.astype(int) - RAMP[..., None]).max() <= 1


@pytest.mark.parametrize(
    ("depth", "value", "shown"), [(1, 1, 0), (2, 1, 2), (4, 9, 3), (8, 77, 78), (16, 0x1234, 0x1334)]
)
def test_transparent_grey_of_any_depth(tmp_path, depth, value, shown):
    samples = np.full((6, 6, 1), shown, np.uint16)
    samples[2:4] = value
    (tmp_path / "a.png").write_bytes(pictures.png(samples, depth, 0, transparent=value.to_bytes(2, "big")))
    alpha = io.read(tmp_path / "a.png").alpha
    assert alpha is not None
    assert np.array_equal(alpha == 0, samples[..., 0] == value)
    assert set(np.unique(alpha)) == {0, 255}


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_rgb(tmp_path, depth):
    key = (np.array([200, 10, 30]) * (257 if depth == 16 else 1)).astype(np.uint16)
    samples = np.zeros((6, 6, 3), np.uint16)
    samples[1:3] = key
    (tmp_path / "a.png").write_bytes(pictures.png(samples, depth, 2, transparent=key.astype(">u2").tobytes()))
    alpha = io.read(tmp_path / "a.png").alpha
    assert alpha is not None
    assert np.array_equal(alpha[:, 0], [255, 0, 0, 255, 255, 255])


def cmyk_files():
    plain = pictures.encoded(Image.new("CMYK", (48, 48), (0, 255, 255, 0)), "JPEG", quality=95)
    yield "adobe", plain
    yield "unmarked", pictures.without_adobe_marker(plain)
    # The same red as YCCK: the decoder's inverted channels hold Y, Cb, Cr of the inks (0, 255, 255) and no black.
    y, cb, cr = Image.new("RGB", (1, 1), (0, 255, 255)).convert("YCbCr").getpixel((0, 0))
    stored = Image.new("CMYK", (48, 48), (255 - y, 255 - cb, 255 - cr, 0))
    ycck = pictures.encoded(stored, "JPEG", quality=95, subsampling=2)
    yield "ycck", pictures.as_ycck(ycck)
    yield "ycck unmarked", pictures.without_adobe_marker(ycck)


@pytest.mark.parametrize(("name", "data"), named(cmyk_files()))
def test_cmyk_red_stays_red(tmp_path, name, data):
    (tmp_path / "red.jpg").write_bytes(data)
    picture = io.read(tmp_path / "red.jpg")
    assert np.abs(picture.rgb.astype(int) - (255, 0, 0)).max() <= 4
    io.write(tmp_path / "out.png", picture)
    with Image.open(tmp_path / "out.png") as result:
        assert result.mode == "RGB"


def test_cmyk_tiff(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.tiff")
    assert np.array_equal(io.read(tmp_path / "red.tiff").rgb[0, 0], (255, 0, 0))


def test_rgb_profile_travels_and_others_do_not(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", icc_profile=profile)
    picture = io.read(tmp_path / "a.jpg")
    for suffix in io.OUTPUT_FORMATS:
        io.write(tmp_path / f"out{suffix}", io.upscale(picture, enlarge))
        with Image.open(tmp_path / f"out{suffix}") as result:
            assert result.info["icc_profile"] == profile
    Image.new("L", (8, 8)).save(tmp_path / "grey.png", icc_profile=profile[:16] + b"GRAY" + profile[20:])
    assert io.read(tmp_path / "grey.png").icc is None
    broken = profile[:16] + b"CMYK" + profile[20:]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", icc_profile=broken)
    assert np.abs(io.read(tmp_path / "cmyk.jpg").rgb.astype(int) - (255, 0, 0)).max() <= 3


# --- alpha ---


def transparent_pictures():
    palette = pictures.palette_with_hidden_magenta()
    rgba = palette.convert("RGBA")
    return {"palette": palette, "rgba": rgba}


@pytest.mark.parametrize("kind", ["palette", "rgba"])
def test_alpha_is_kept_and_hidden_colour_never_shows(tmp_path, kind):
    image = transparent_pictures()[kind]
    image.save(tmp_path / "in.png")
    picture = io.read(tmp_path / "in.png")
    io.write(tmp_path / "out.png", io.upscale(picture, enlarge))
    with Image.open(tmp_path / "out.png") as result:
        assert result.mode == "RGBA"
        rgba = np.asarray(result).astype(int)
    assert rgba.shape == (128, 128, 4)
    alpha = rgba[..., 3]
    assert alpha[:8].max() == alpha[-8:].max() == 0  # flat in the source, as the ring and the core are
    assert np.array_equal(np.unique(alpha[24:32, 60:68]), [128])
    assert alpha[60:68, 60:68].min() == 255
    seen = rgba[..., :3][alpha > 0]
    assert seen[:, 0].max() <= 12  # neither index 1 nor 2 holds any red; magenta would


def test_premultiplied_modes_of_pillow_are_divided():
    for mode, straight in (("La", "LA"), ("RGBa", "RGBA")):
        color = (200, 100) if mode == "La" else (200, 40, 10, 100)
        picture = io.from_pil(Image.new(straight, (4, 4), color).convert(mode))
        assert abs(int(picture.rgb[0, 0, 0]) - 200) <= 2
        assert np.array_equal(np.unique(picture.alpha), [100])


def test_upscale_returns_the_kind_it_was_given():
    image = transparent_pictures()["rgba"]
    as_image = io.upscale(image, enlarge)
    as_array = io.upscale(np.asarray(image), enlarge)
    assert isinstance(as_image, Image.Image)
    assert isinstance(as_array, np.ndarray)
    assert np.array_equal(np.asarray(as_image), as_array)
    assert io.upscale(np.zeros((3, 5), np.uint8), enlarge).shape == (12, 20, 3)
    assert io.upscale(np.zeros((3, 5, 2), np.uint8), enlarge).shape == (12, 20, 4)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(array):
    with pytest.raises(InputError, match="expected uint8"):
        io.from_array(array)


def test_a_mask_and_more_pixels_than_memory_are_refused():
    with pytest.raises(InputError, match="of type MaskedArray, expected"):
        io.from_array(np.ma.masked_array(np.zeros((2, 2), np.uint8), mask=True))
    with pytest.raises(InputError, match=r"shape \(1000000, 1000000, 1\): expected at most"):
        io.from_array(np.broadcast_to(np.uint8(3), (10**6, 10**6)))


# --- sizes, resizing ---


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 40), width=st.integers(1, 40), scale=st.sampled_from([0.25, 1, 1.5, 2, 3, 4]))
def test_any_size_upscales_flat_to_flat(height, width, scale):
    size = resizing.output_size(height, width, scale)
    rgb = np.full((height, width, 3), (3, 120, 250), np.uint8)
    alpha = np.full((height, width), 77, np.uint8)
    picture = io.upscale(io.Picture(rgb, alpha), lambda x: resizing.bicubic(x, size))
    assert picture.rgb.shape == (*size, 3)
    assert size == (max(1, round(height * scale)), max(1, round(width * scale)))
    assert np.array_equal(np.unique(picture.rgb.reshape(-1, 3), axis=0), [(3, 120, 250)])
    assert np.array_equal(np.unique(picture.alpha), [77])


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (4, 4), (3, 9)])
def test_thin_pictures(tmp_path, size):
    rgb = pictures.photograph(*size)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    result = io.upscale(io.read(tmp_path / "a.png"), enlarge)
    assert result.rgb.shape == (size[0] * 4, size[1] * 4, 3)
    assert np.abs(result.rgb.mean((0, 1)) - rgb.mean((0, 1))).max() < 3


def test_bicubic_kernel_is_a_half():
    """An edge of 0 | 200 enlarged x4: Keys' cubic with a = -0.5 at the eight phases beside it, worked out by hand."""

    def keys(x, a=-0.5):
        x = abs(x)
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x < 1 else a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    source = np.array([0, 0, 0, 0, 100, 100, 100, 100]) + 60
    positions = (np.arange(32) + 0.5) / 4 - 0.5
    expected = [sum(keys(p - i) * source[min(max(i, 0), 7)] for i in range(-2, 10)) for p in positions]
    result = resizing.bicubic(np.tile(source.astype(np.uint8), (8, 1)), (32, 32))
    assert np.abs(result[16, 8:-8] - np.array(expected)[8:-8]).max() <= 1


@pytest.mark.parametrize(("size", "scale"), [((8192, 8192), 4), ((10, 10), 0), ((10, 10), -1), ((9, 9), float("nan"))])
def test_absurd_scales_are_refused(size, scale):
    with pytest.raises(InputError):
        resizing.output_size(*size, scale)


def test_side_by_side():
    row = io.side_by_side([np.full((2, 3, 3), value, np.uint8) for value in (1, 2, 3)])
    assert row[0, :, 0].tolist() == [1] * 3 + [2] * 3 + [3] * 3


# --- writing ---


def test_write_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.png"
    io.write(path, io.Picture(np.zeros((4, 4, 3), np.uint8)))
    before = path.read_bytes()

    def fail(self, file, *args, **options):
        file.write(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(InputError, match=r"a\.png: cannot be written \(No space left on device\)"):
        io.write(path, io.Picture(np.ones((4, 4, 3), np.uint8)))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.png"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_what_is_stored_as_grey_is_written_as_grey(tmp_path, mode, suffix):
    Image.fromarray(np.arange(0, 240, 2, np.uint8).reshape(12, 10)).convert(mode).save(tmp_path / "in.png")
    picture = io.read(tmp_path / "in.png")
    tinted = picture.rgb + np.array([8, 0, 3], np.uint8)  # as a network does
    io.write(tmp_path / f"out.{suffix}", io.with_rgb(picture, tinted))
    with Image.open(tmp_path / f"out.{suffix}") as written:
        has_alpha = mode == "LA" and suffix != "jpg"
        if suffix != "webp":  # which has no grey
            deep = mode == "I;16" and suffix == "png"
            assert written.mode == ("LA" if has_alpha else "I;16" if deep else "L")
        assert is_grey(np.asarray(written.convert("RGB")))


def test_a_profile_for_colours_keeps_a_grey_picture_in_colours(tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("L", (4, 4), 90).save(tmp_path / "in.jpg", icc_profile=icc)
    picture = io.read(tmp_path / "in.jpg")
    assert (picture.icc, io.to_pil(picture).mode) == (icc, "RGB")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_written_file_has_the_usual_mode(tmp_path):
    (tmp_path / "other").touch()
    io.write(tmp_path / "a.png", io.Picture(np.zeros((4, 4, 3), np.uint8)))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    alpha = np.full((4, 4), 254, np.uint8)
    with pytest.raises(InputError, match="no transparency"):
        io.write(tmp_path / "a.jpg", io.Picture(np.zeros((4, 4, 3), np.uint8), alpha))
    io.write(tmp_path / "a.jpg", io.Picture(np.zeros((4, 4, 3), np.uint8), alpha | 1))
    with pytest.raises(InputError, match="at most 16383"):
        io.check_writable("a.webp", 1, 16_384)
    with pytest.raises(InputError, match="expected one of"):
        io.check_writable("a.bmp", 1, 1)


def test_needs_no_jax():
    import subprocess

    assert subprocess.check_output([sys.executable, "-c", ROOT_IMPORTS], text=True).strip() == "False"
