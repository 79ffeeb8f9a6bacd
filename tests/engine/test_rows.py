"""Whole pictures without tiles: the devices share the rows of one at a time, and make the picture of one device."""

import json
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.stages import Wrapped

import cassr_jax
from cassr_jax.cascade import CasSR
from cassr_jax.config import SamplingConfig
from cassr_jax.engine.kept import Call
from cassr_jax.engine.rows import RowEngine, RowPrograms, mesh_of_rows
from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from cassr_jax.sharding.account import make_account
from sample import main
from tests.random_cascade import NETWORKS, TILE, write_random_cascade
from tests.test_cascade import with_rrdbnet_of

GUIDED = SamplingConfig(num_steps=3, guidance_scale=2.0, negative_prompt="", control_every=2)
TALL = (2 * TILE // 4, 20)  # no tile holds its result, whose rows eight devices can share


class Watched(RowPrograms):
    """Programs whose FLOPs on one device are known once they have run, by function."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.flops: dict[str, float] = {}

    def wrapped(self, key: tuple[Hashable, ...], function: Wrapped, call: Call) -> Callable[..., Any]:
        programs: dict[str, Any] = {}

        def counted(*args: Any) -> Any:
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), args
            )
            if str(shapes) not in programs:
                program = programs[str(shapes)] = function.lower(*shapes).compile()
                account = make_account(program.as_text(), program.memory_analysis(), {}, self.mesh, None)
                self.flops[str(key[0])] = account.flops
            return programs[str(shapes)](*args)

        return counted


def loaded(folder: Path, devices: int) -> CasSR:
    cassr = cassr_jax.load(folder, devices=devices, split="spatial")
    cassr._engine = RowEngine(Watched(cassr.networks, mesh_of_rows(jax.devices()[:devices])))
    return cassr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    components = {kind: kind for kind in NETWORKS}  # the fusion as well
    return write_random_cascade(tmp_path_factory.mktemp("cascade"), sampling=GUIDED, components=components)


@pytest.fixture(scope="module")
def one(folder: Path) -> CasSR:
    return loaded(folder, 1)


@pytest.fixture(scope="module")
def eight(folder: Path) -> CasSR:
    return loaded(folder, 8)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


def farthest(one: np.ndarray, other: np.ndarray) -> int:
    """In levels of 255."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.slow
def test_a_picture_of_one_tile_comes_out_as_with_tiles(folder: Path, eight: CasSR) -> None:
    rgb = picture(TILE // 4, TILE // 4)
    made, expected = eight.restore(rgb, seed=3), cassr_jax.load(folder, devices=1).restore(rgb, seed=3)
    assert farthest(made.result, expected.result) <= 1
    assert farthest(made.reference, expected.reference) <= 1


def test_eight_devices_make_the_picture_of_one_with_an_eighth_of_its_products_each(one: CasSR, eight: CasSR) -> None:
    rgb = picture(*TALL)
    assert farthest(eight.restore(rgb).result, one.restore(rgb).result) <= 1
    few, many = (each._engine.programs.flops for each in (eight, one))
    for name in ("hints", "encode", "denoise", "decode"):
        assert few[name] * 8 <= 1.1 * many[name], name


@pytest.mark.parametrize(
    "sizes",
    [
        [(TALL[0] - 1, TALL[1]), (TALL[0] - 7, TALL[1] - 1)],  # extended to the size that is compiled already
        pytest.param([(1, 1), (3, 40), (33, 5)], marks=pytest.mark.slow),
    ],
)
def test_pictures_of_any_size_keep_it(eight: CasSR, sizes: list[tuple[int, int]]) -> None:
    found = list(eight.restore_many([picture(*size) for size in sizes]))
    assert [each.result.shape for each in found] == [(4 * height, 4 * width, 3) for height, width in sizes]


def test_an_enlarging_network_makes_the_same_picture_too(eight: CasSR) -> None:
    rgb, networks = picture(19, 24), with_rrdbnet_of(eight.networks)
    config = replace(eight.config, activation="rrdbnet")
    few, many = (CasSR(config, networks, devices=count, split="spatial") for count in (1, 8))
    assert farthest(np.asarray(many.reference(rgb)), np.asarray(few.reference(rgb))) <= 1


def test_the_command_makes_one_and_says_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    io.write(tmp_path / "a.png", io.Picture(picture(*TALL)))
    output = tmp_path / "out"
    given = [str(tmp_path / "a.png"), "--config", str(folder), "--output", str(output), "--split", "spatial"]
    assert main([*given, "--devices", "8"]) == 0
    assert io.read(output / "a.png").rgb.shape == (128, 80, 3)
    (entry,) = json.loads((output / "manifest.json").read_text())["pictures"]
    settings = entry["settings"]
    assert (settings["split"], settings["devices"], settings["tile"]) == ("spatial", 8, None)
    with pytest.raises(SystemExit):
        main([*given, "--tile", "64"])
    assert "expected one of them" in capsys.readouterr().err


def test_tiles_beside_whole_pictures_are_refused(eight: CasSR) -> None:
    with pytest.raises(InputError, match="tile is 64 beside split spatial, expected none"):
        eight.restore(picture(8, 8), tile=64)


def test_a_word_that_is_no_split_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="split is 'rows', expected one of tiles, spatial"):
        cassr_jax.load(folder, split="rows")  # pyright: ignore[reportArgumentType]
