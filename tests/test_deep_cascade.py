"""Pictures with 16 bits per sample go through the networks as they are, and come out so."""

from pathlib import Path

import numpy as np
import pytest

import cassr_jax
from cassr_jax.cascade import CasSR
from cassr_jax.imaging.pixels import deepened, shallow
from tests.random_cascade import write_random_cascade

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 15, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def cassr(folder: Path) -> CasSR:
    return cassr_jax.load(folder)


def test_the_result_has_the_bits_of_the_picture(cassr: CasSR):
    plain, deep = (cassr.restore(picture, seed=3) for picture in (PICTURE, deepened(PICTURE)))
    for name in ("bicubic", "reference", "result"):
        expected, found = getattr(plain, name), getattr(deep, name)
        assert (expected.dtype, found.dtype) == (np.uint8, np.uint16)
        assert found.shape == expected.shape
    assert len(np.unique(deep.result % 257)) > 100  # values between those of 8 bits
    assert np.abs(shallow(deep.result).astype(int) - plain.result).mean() < 3


def test_a_difference_below_8_bits_reaches_the_networks(cassr: CasSR):
    deep = deepened(PICTURE)
    changed = np.where(deep > 40_000, deep - 60, deep)
    np.testing.assert_array_equal(shallow(changed), PICTURE)
    one, other = (cassr.restore(picture).result for picture in (deep, changed))
    assert np.any(one != other)


def test_pictures_of_both_kinds_come_back_in_order(cassr: CasSR):
    given = [PICTURE, deepened(PICTURE), deepened(PICTURE[::-1]), ValueError("no picture"), PICTURE[::-1]]
    found = list(cassr.restore_many(given))
    assert found[3] is given[3]
    for place in (0, 1, 2, 4):
        np.testing.assert_array_equal(found[place].result, cassr.restore(given[place]).result)


def test_arrays_of_16_bits_are_enlarged_as_such(cassr: CasSR):
    deep = deepened(np.dstack([PICTURE, PICTURE[..., 0]]))
    found = cassr.upscale(deep)
    assert (found.dtype, found.shape) == (np.uint16, (48, 60, 4))


def test_tiles_on_several_devices_are_the_same(folder: Path, cassr: CasSR):
    shared = cassr_jax.load(folder, devices=2).restore(deepened(PICTURE)).result
    assert np.abs(shared.astype(int) - cassr.restore(deepened(PICTURE)).result).max() <= 257


def test_rows_on_several_devices_are_deep_too(folder: Path):
    cassr = cassr_jax.load(folder, devices=2, split="spatial")
    plain, deep = (cassr.restore(picture).result for picture in (PICTURE, deepened(PICTURE)))
    assert deep.dtype == np.uint16
    assert np.abs(shallow(deep).astype(int) - plain).mean() < 3


def test_the_reference_alone_is_deep_too(folder: Path):
    cassr = cassr_jax.load(folder, activation="identity")
    deep = cassr.reference(deepened(PICTURE))
    assert deep.dtype == np.uint16
    assert np.abs(shallow(deep).astype(int) - cassr.reference(PICTURE)).mean() < 1
