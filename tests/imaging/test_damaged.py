"""Damaged files, bombs and animations: each gives a picture or one sentence that names the file."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from tests.imaging import pictures


def named(files):
    return [pytest.param(name, data, id=name) for name, data in files]


def damaged_files():
    photograph = Image.fromarray(pictures.photograph())
    formats = {
        "baseline.jpg": ("JPEG", {}),
        "progressive.jpg": ("JPEG", {"progressive": True}),
        "a.png": ("PNG", {}),
        "a.webp": ("WEBP", {}),
        "a.gif": ("GIF", {}),
        "a.bmp": ("BMP", {}),
        "a.tiff": ("TIFF", {}),
        "a.avif": ("AVIF", {}),
    }
    for name, (format, options) in formats.items():
        data = pictures.encoded(photograph, format, **options)
        for share in (0.02, 0.5, 0.98):
            yield f"{share}-{name}", data[: int(len(data) * share)]
    yield "empty.png", b""
    yield "notes.png", b"not a picture"
    yield "signature.png", b"\x89PNG\r\n\x1a\n"
    yield "zero_width.png", pictures.png_header(0, 5)
    yield "script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"


@pytest.mark.parametrize(("name", "data"), named(damaged_files()))
@pytest.mark.parametrize("lenient", [False, True])
def test_damaged_file_is_refused_by_name(tmp_path, monkeypatch, name, data, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        io.read(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_threads_leave_the_process_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = pictures.encoded(Image.fromarray(pictures.photograph()), "JPEG")
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    before = list(warnings.filters)

    def attempt(i):
        try:
            return io.read(tmp_path / ("cut.jpg" if i % 2 else "whole.jpg")).rgb.shape
        except InputError:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, range(100))) == [(96, 128, 3), None] * 50
    assert list(warnings.filters) == before
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@settings(deadline=None, max_examples=60)
@given(data=st.data(), format=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000"]))
def test_any_damage_gives_a_picture_or_an_input_error(tmp_path_factory, data, format):
    whole = bytearray(pictures.encoded(Image.fromarray(pictures.photograph(12, 16)), format))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / "a"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        picture = io.read(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert picture.rgb.dtype == np.uint8
        assert picture.rgb.shape[2] == 3


@pytest.mark.parametrize("size", [(20_000, 20_000), (9_000, 9_000), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_refused_from_its_header(tmp_path, monkeypatch, size):
    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    (tmp_path / "bomb.png").write_bytes(pictures.png_header(*size))
    with pytest.raises(InputError, match=r"bomb\.png"):
        io.read(tmp_path / "bomb.png")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        io.read(tmp_path / "none.png")
    with pytest.raises(InputError, match="directory"):
        io.read(tmp_path)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame_and_the_number(tmp_path, format):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a", format, save_all=True, append_images=frames[1:], lossless=True)
    picture = io.read(tmp_path / "a")
    assert picture.frames == 3
    assert np.array_equal(picture.rgb[8, 8], (255, 0, 0))


def test_phone_photograph_with_previews_is_a_still(tmp_path):
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    picture = io.read(tmp_path / "a.jpg")
    assert (picture.frames, picture.format) == (1, "JPEG")
    assert np.abs(picture.rgb.astype(int) - (255, 0, 0)).max() < 6
