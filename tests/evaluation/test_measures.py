"""The measures of a picture: right values, the same on any number of devices, a reason where one is not defined."""

import math

import jax
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.evaluation import measures
from cassr_jax.evaluation.fidelity import psnr
from cassr_jax.evaluation.measures import make_measure, read_weights
from cassr_jax.evaluation.sheet import contact_sheet
from cassr_jax.evaluation.statistics import difference, mean
from tests.data.measures import picture
from tests.evaluation.narrow_backbones import narrow_params
from tests.models.test_perceptual import GOLDEN
from tests.perceptual import dists, lpips

WEIGHTS = {"lpips": narrow_params("alexnet"), "dists": narrow_params("vgg16")}


def test_several_pictures_against_one_truth():
    (image, _), (truth, _) = GOLDEN["pictures"]
    (result, perfect), undefined = make_measure(WEIGHTS)(truth, [image, truth])
    assert result["lpips"] == pytest.approx(GOLDEN["narrow.lpips.alexnet"][0], rel=2e-5)
    assert result["dists"] == pytest.approx(GOLDEN["narrow.dists"][0], rel=2e-5)
    assert (result["psnr_y"], result["ssim_y"]) == pytest.approx(tuple(GOLDEN["fidelity"][0]))
    assert result["psnr_rgb"] == pytest.approx(psnr(image, truth))
    assert perfect == {
        "lpips": pytest.approx(0, abs=1e-6),
        "dists": pytest.approx(0, abs=1e-5),
        "psnr_y": np.inf,
        "ssim_y": pytest.approx(1),
        "psnr_rgb": np.inf,
    }
    assert undefined == {}


def test_any_number_of_devices_gives_the_same_and_each_holds_one_picture_at_a_time(monkeypatch):
    truth, *pictures = (picture(64, seed) for seed in range(6))
    batches: list[tuple[int, ...]] = []
    watched = measures.LEARNED["lpips"]

    def features(params, images):
        batches.append(images.shape)
        return watched.features(params, images)

    noted = measures.Learned(watched.read, features, watched.between, watched.least_side)
    monkeypatch.setattr(measures, "LEARNED", {"lpips": noted, "dists": measures.LEARNED["dists"]})
    used: set = set()
    device_put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda x, device: used.add(device) or device_put(x, device))
    alone, _ = make_measure(WEIGHTS)(truth, pictures)
    assert len(used) == 1
    shared, _ = make_measure(WEIGHTS, devices=3)(truth, pictures)
    assert len(used) == 3
    assert set(batches) == {(1, 64, 64, 3)}
    expected = jax.jit(lambda a, b: (lpips(WEIGHTS["lpips"], a, b), dists(WEIGHTS["dists"], a, b)))(
        np.stack(pictures) / np.float32(127.5) - 1, truth[None] / np.float32(127.5) - 1
    )
    for name, values in zip(("lpips", "dists"), expected, strict=True):
        for found in (alone, shared):
            np.testing.assert_allclose([value[name] for value in found], values, rtol=2e-4)


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match="devices is 99, expected 1 to 8"):
        make_measure(WEIGHTS, devices=99)


@pytest.mark.parametrize(
    ("side", "defined"), [(31, {"lpips", "dists", "ssim_y"}), (30, {"dists", "ssim_y"}), (3, {"dists"})]
)
def test_what_is_not_defined_for_a_small_picture_is_nan_with_a_reason(side, defined):
    truth, image = picture(side, 0), picture(side, 1)
    (values,), undefined = make_measure(WEIGHTS)(truth, [image])
    assert {name for name in ("lpips", "dists", "ssim_y") if math.isfinite(values[name])} == defined
    assert undefined.keys() == {"lpips", "dists", "ssim_y"} - defined
    assert all(f"{side}x{side} px" in reason for reason in undefined.values())


def test_a_picture_that_cannot_be_judged_alone_keeps_its_reason():
    def judge(image: np.ndarray) -> float:
        if image.max() == 0:
            raise InputError("flat")
        return 7.0

    truth = picture(32, 0)
    (good, flat), undefined = make_measure({}, {"niqe": judge})(truth, [truth, truth * 0])
    assert (good["niqe"], undefined) == (7.0, {"niqe": "flat"})
    assert math.isnan(flat["niqe"])


def test_weights_that_are_not_installed_are_named(monkeypatch):
    def absent() -> None:
        raise InputError("not installed")

    monkeypatch.setattr(measures, "dists_weights", absent)
    monkeypatch.setattr(measures, "lpips_weights", narrow_params)
    weights, missing = read_weights(["lpips", "dists"])
    assert (weights.keys(), missing) == ({"lpips"}, {"dists": "not installed"})


def test_a_mean_has_its_standard_error():
    found = mean([1.0, 3.0, math.nan])
    assert (found.value, found.error, found.count) == (2, pytest.approx(1), 2)
    assert math.isnan(mean([7.0]).error)
    assert mean([math.nan]).count == 0
    perfect = mean([30.0, math.inf])
    assert perfect.value == math.inf
    assert math.isnan(perfect.error)


def test_a_difference_is_taken_in_pairs():
    found = difference([0.3, 0.75, math.inf], [0.4, 0.6, math.inf], higher_is_better=False)
    assert (found.mean.value, found.mean.error, found.mean.count) == (pytest.approx(0.025), pytest.approx(0.125), 2)
    assert found.better == 1
    assert difference([21.0, 25.0], [20.0, 22.0], higher_is_better=True).better == 2


def test_contact_sheet_places_and_shrinks():
    red, blue = np.zeros((2, 64, 32, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = contact_sheet([[red, blue], [np.full((512, 1024, 3), 9, np.uint8), red]])
    assert sheet.shape == (516, 516, 3)
    assert (sheet[:64, :32] == red).all()
    assert (sheet[:64, 260:292] == blue).all()
    assert (sheet[260:388, :256] == 9).all()
    assert (sheet[388:, :256] == 255).all()
