"""The embedded weights on pictures that broke other programs. One small tile, so that little has to be compiled."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cassr_jax
from cassr_jax.cascade import CasSR
from cassr_jax.errors import InputError
from cassr_jax.networks import Networks

ROOT = Path(__file__).parents[2]
TILE = {"tile": 64, "steps": 2}


@pytest.fixture(scope="module")
def cassr() -> CasSR:
    return cassr_jax.load("tiny")


def test_a_turned_photo_comes_out_upright(cassr: CasSR):
    picture = Image.new("RGB", (16, 12), "white")
    picture.paste((255, 0, 0), (0, 0, 6, 6))  # where the file has it
    for orientation, corner in ((6, (1, 0)), (5, (0, 0)), (7, (1, 1)), (1, (0, 0))):
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.info["exif"] = exif.tobytes()
        result = cassr.upscale(picture, **TILE)
        assert result.size == ((64, 48) if orientation == 1 else (48, 64))
        assert result.getexif().get(0x0112, 1) == 1
        x, y = (4 if side == 0 else length - 5 for side, length in zip(corner, result.size, strict=True))
        red, green, blue = result.getpixel((x, y))
        assert red > 150 > max(green, blue), orientation


@pytest.mark.parametrize("size", [(1, 1), (16, 1), (1, 16), (4, 4), (3, 9)])
def test_the_smallest_pictures_keep_size_and_colour(cassr: CasSR, size: tuple[int, int]):
    colour = np.array([200, 120, 60], np.uint8)
    result = cassr.upscale(np.tile(colour, (*size, 1)), **TILE)
    assert result.shape == (4 * size[0], 4 * size[1], 3)
    assert np.abs(result.mean((0, 1)) - colour).max() <= 3


def test_same_pixels_alone_and_after_other_pictures(cassr: CasSR):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((16, 16), (9, 14), (12, 16))]
    alone = cassr.upscale(pictures[2], seed=5, **TILE)
    among = [cassr.upscale(picture, seed=5, **TILE) for picture in pictures]
    np.testing.assert_array_equal(alone, among[2])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_a_picture_on_flat_and_on_harsh_input(dtype: str):
    cassr = cassr_jax.load("tiny", activation="identity", dtype=dtype)
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    for picture in (np.zeros_like(noise), np.full_like(noise, 255), noise, stripes):
        result = cassr.upscale(picture, **TILE)
        assert abs(float(result.mean()) - float(picture.mean())) < 12


def test_weights_that_overflow_half_precision_are_named_not_painted_black():
    cassr = cassr_jax.load("tiny", activation="identity", dtype="float16")
    params = {name: value * 30 for name, value in cassr.networks.params.items()}
    broken = CasSR(cassr.config, Networks(cassr.networks.configs, cassr.networks.graphdefs, params))
    with pytest.raises(InputError, match="the result has numbers that are not finite"):
        broken.upscale(np.zeros((16, 16, 3), np.uint8), **TILE)


def test_the_readme_command_makes_a_picture(tmp_path: Path):
    command = [
        sys.executable,
        "sample.py",
        "examples/bee.jpg",
        "--output",
        str(tmp_path),
        "--tile",
        "64",
        "--steps",
        "2",
        "--scale",
        "2",  # a quarter of the tiles
    ]
    environment = os.environ | {"XLA_FLAGS": ""}  # as a user has it: compiled with all optimisation, for one device
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(ROOT / "examples/bee.jpg") as example, Image.open(tmp_path / "bee.png") as result:
        assert result.size == (2 * example.width, 2 * example.height)


def test_the_weights_fit_the_repository():
    folder = ROOT / "cassr_jax" / "assets" / "tiny"
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) < 48e6
