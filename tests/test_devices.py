"""The tiles of one picture shared by several devices: the picture that one device makes."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from PIL import Image

import cassr_jax
import sample
from cassr_jax.cascade import CasSR
from cassr_jax.config import SamplingConfig
from cassr_jax.errors import InputError
from cassr_jax.imaging import io, tiling
from cassr_jax.models.rrdbnet import RRDBNet, RRDBNetConfig
from cassr_jax.sampling import Canvas, enlarge, map_tiles
from tests.random_cascade import write_random_cascade


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Without a first stage and guidance, half as much to compile.
    sampling = SamplingConfig(num_steps=2, guidance_scale=1.0)
    changes = {"activation": "identity", "sampling": sampling, "color_fix": "adain"}
    return write_random_cascade(tmp_path_factory.mktemp("cascade"), **changes)


@pytest.fixture(scope="module")
def shared(folder: Path) -> CasSR:
    return cassr_jax.load(folder, devices=8)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)


def test_eight_devices_make_the_picture_of_one(folder: Path, shared: CasSR, rgb: np.ndarray):
    alone = cassr_jax.load(folder).restore(rgb, seed=1)
    together = shared.restore(rgb, seed=1)
    assert shared._canvas(120, 160, None).tiles.count % 8  # devices have unequal shares
    difference = np.abs(together.result.astype(int) - alone.result)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.01


def test_each_device_has_its_share_and_the_weights(shared: CasSR, rgb: np.ndarray):
    assert {len(value.sharding.device_set) for value in shared.networks.params.values()} == {8}
    canvas = shared._canvas(120, 160, None)
    assert canvas.in_a_call(canvas.tiles.count) == 2  # of 9


def test_tiles_of_a_network_without_diffusion_are_shared_too(rgb: np.ndarray):
    network = RRDBNet(RRDBNetConfig(num_feat=4, num_block=1, num_grow_ch=2), rngs=nnx.Rngs(0))
    image, tiles = np.tile(rgb, (1, 3, 1))[None, :, :100].astype(np.float32) / 255, tiling.grid(30, 100, 16, 4)
    mesh = Mesh(np.array(jax.devices()), ("tiles",))
    one, many = (
        enlarge(jax.jit(lambda tiles, canvas=canvas: map_tiles(network, tiles, canvas)), image, canvas)
        for canvas in (Canvas(tiles, 4, 1), Canvas(tiles, 4, 1, mesh))
    )
    assert many.shape == (1, 120, 400, 3)
    np.testing.assert_allclose(many, one, atol=1e-6)


def test_no_trace_between_pictures_of_one_canvas(shared: CasSR, rgb: np.ndarray):
    shared.restore(rgb)
    before = shared._programs.count()
    assert before == 5  # start, condition, denoise, decode, and the text encoder
    shared.restore(rgb[::-1, ::-1], seed=3)
    shared.restore(rgb[1:, 1:], progress=lambda *_: None)
    assert shared._programs.count() == before


def test_more_devices_than_there_are_are_named(folder: Path):
    for devices in (0, 9):
        with pytest.raises(InputError, match=f"devices is {devices}, expected 1 to 8"):
            cassr_jax.load(folder, devices=devices)


def test_results_keep_their_names(shared: CasSR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cassr_jax, "load", lambda *_, **options: shared if options["devices"] == 8 else None)
    rng = np.random.default_rng(0)
    sizes, colors = [(30, 40), (29, 40), (30, 39), (29, 39)] * 4, rng.integers(40, 216, (16, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    for number, (size, color) in enumerate(zip(sizes, colors, strict=True)):
        Image.fromarray(np.tile(color, (*size, 1))).save(tmp_path / "in" / f"{number}.png")
    assert sample.main([str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--devices", "8"]) == 0
    for number, ((height, width), color) in enumerate(zip(sizes, colors, strict=True)):
        result = io.read(tmp_path / "out" / f"{number}.png").rgb
        assert result.shape == (4 * height, 4 * width, 3)
        assert np.abs(result.mean((0, 1)) - color).max() <= 3
