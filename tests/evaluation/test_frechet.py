"""The Fréchet distance where its value is known, and against the formula with a matrix root."""

import numpy as np
import pytest
import scipy.linalg

from cassr_jax.data.sources import read_rgb
from cassr_jax.evaluation import frechet
from cassr_jax.evaluation.frechet import frechet_distance, vgg16_distance
from cassr_jax.evaluation.pyiqa_measures import linked
from tests.data.measures import picture
from tests.evaluation.pair_folders import write
from tests.models.test_perceptual import narrow


def correlated(count: int, channels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, channels)) @ rng.normal(size=(channels, channels)) + rng.normal(size=channels)


@pytest.mark.parametrize("count", [6, 50])  # fewer than features, and more
def test_scaled_and_moved_features(count):
    a = correlated(count, 12, 0)
    shift = np.linspace(-1, 2, 12)
    distance = np.square(a.mean(0) * (1 - 0.7) - shift).sum() + (1 - 0.7) ** 2 * np.trace(np.cov(a, rowvar=False))
    assert frechet_distance(a, 0.7 * a + shift) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_equals_the_formula_with_a_matrix_root():
    a, b = correlated(60, 8, 1), correlated(40, 8, 2)
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sum(covariances) - 2 * np.real(root))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3, 5\)"):
        frechet_distance(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match="two pictures"):
        frechet_distance(np.zeros((1, 4)), np.zeros((3, 4)))


def test_folders_of_pictures(tmp_path):
    for seed in range(3):
        write(tmp_path / "hr", f"{seed}.png", picture(64, seed))
        write(tmp_path / "same", f"{2 - seed}.png", picture(64, seed))
        write(tmp_path / "dark", f"{seed}.png", picture(64, seed) // 3)
        write(tmp_path / "darker", f"{seed}.png", picture(64, seed) // 9)
    distance = vgg16_distance(narrow("vgg16"))
    same, dark, darker = (distance(tmp_path / name, tmp_path / "hr") for name in ("same", "dark", "darker"))
    assert same == pytest.approx(0, abs=1e-6 * dark)
    assert dark < darker


def test_devices_share_the_pictures_and_a_file_is_read_once_through_any_link(tmp_path, monkeypatch):
    for seed in range(3):
        write(tmp_path / "hr", f"{seed}.png", picture(64, seed))
        write(tmp_path / "dark", f"{seed}.png", picture(64, seed) // 3)
    read, alone = [], vgg16_distance(narrow("vgg16"), 1)
    expected = alone(tmp_path / "dark", tmp_path / "hr")
    monkeypatch.setattr(frechet, "read_rgb", lambda file: read.append(file) or read_rgb(file))
    shared = vgg16_distance(narrow("vgg16"), 2)
    for _ in range(2):
        with linked(sorted((tmp_path / "dark").iterdir())) as made, linked(sorted((tmp_path / "hr").iterdir())) as hr:
            assert shared(made, hr) == pytest.approx(expected, rel=1e-5)
    assert sorted(read) == sorted([*(tmp_path / "dark").iterdir(), *(tmp_path / "hr").iterdir()])
