"""`sample.py` on several devices."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cassr_jax
import sample
from cassr_jax.cascade import CasSR
from cassr_jax.commands.settings import described
from cassr_jax.config import SamplingConfig
from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from cassr_jax.loading import read_cascade
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


@pytest.mark.parametrize(("backend", "expected"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")])
def test_an_accelerator_computes_in_bfloat16_unless_it_is_told(tmp_path, monkeypatch, backend, expected):
    folder = write_random_cascade(tmp_path)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    networks = cassr_jax.load(folder).networks
    assert {array.dtype for array in networks.params.values()} == {jnp.dtype(expected)}
    assert set(networks.dtypes.values()) == {expected}
    assert described(read_cascade(folder)[0])["dtype"] == expected
