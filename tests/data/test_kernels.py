"""Kernels against a direct evaluation of their densities, against basicsr's, and their draws against their table."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import j1

from cassr_jax.data import kernels
from cassr_jax.data.kernels import KernelRanges, circular_lowpass, gaussian, generalized_gaussian, plateau

SIZES = st.sampled_from(kernels.SIZES)
SIGMA = st.floats(0.2, 3.0)
ROTATION = st.floats(-math.pi, math.pi)
BETA = st.floats(0.5, 4.0)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "golden" / "degradation.npz") as file:
        return dict(file)


def direct(size, sigma_x, sigma_y, rotation, density):
    """`density` of the squared Mahalanobis distance, pixel by pixel, by the inverse of the turned covariance."""
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    precision = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
    kernel = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            offset = np.array([column - size // 2, row - size // 2])
            kernel[row, column] = density(max(offset @ precision @ offset, 0.0))
    return kernel / kernel.sum()


@settings(deadline=None, max_examples=25)
@given(SIZES, SIGMA, SIGMA, ROTATION, BETA)
def test_kernels_are_their_densities_and_sum_to_one(size, sigma_x, sigma_y, rotation, beta):
    shape = (size, sigma_x, sigma_y, rotation)
    for kernel, density in (
        (gaussian(*shape), lambda d: math.exp(-d / 2)),
        (generalized_gaussian(*shape, beta), lambda d: math.exp(-(d**beta) / 2)),
        (plateau(*shape, beta), lambda d: 1 / (1 + d**beta)),
    ):
        np.testing.assert_allclose(kernel, direct(*shape, density), rtol=2e-5, atol=1e-7)
        assert kernel.dtype == np.float32
        assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)


@settings(deadline=None, max_examples=25)
@given(SIZES, st.floats(math.pi / 5, math.pi))
def test_the_lowpass_is_the_transform_of_a_disc(size, cutoff):
    kernel = circular_lowpass(size, cutoff)
    row, column = np.mgrid[:size, :size] - size // 2
    radius = np.hypot(row, column)
    radius[size // 2, size // 2] = 1e-6  # c J1(c r) / (2 pi r) tends to c^2 / (4 pi)
    expected = cutoff * j1(cutoff * radius) / (2 * math.pi * radius)
    np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=2e-5, atol=1e-7)
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)


def test_a_lowpass_keeps_what_lies_below_its_cutoff_and_removes_what_lies_above():
    response = np.abs(np.fft.fft2(np.pad(circular_lowpass(21, math.pi / 2), (0, 43))))  # 64 frequencies an axis
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64))) * 2 * math.pi
    assert response[frequency < 0.3 * math.pi].min() > 0.85
    assert response[frequency > 0.7 * math.pi].max() < 0.1


def test_kernels_equal_basicsr(golden):
    for index, (size, sigma_x, sigma_y, rotation, beta) in enumerate(golden["kernels"]):
        shape = (int(size), sigma_x, sigma_y, rotation)
        np.testing.assert_allclose(gaussian(*shape), golden[f"kernel_gaussian_{index}"], rtol=1e-5, atol=1e-8)
        ours = generalized_gaussian(*shape, beta)
        np.testing.assert_allclose(ours, golden[f"kernel_generalized_{index}"], rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(plateau(*shape, beta), golden[f"kernel_plateau_{index}"], rtol=1e-5, atol=1e-8)
    for index, (size, cutoff) in enumerate(golden["lowpass"]):
        np.testing.assert_allclose(
            circular_lowpass(int(size), cutoff), golden[f"kernel_lowpass_{index}"], rtol=1e-5, atol=1e-8
        )


def record_draws(monkeypatch, draw, count: int) -> list[tuple[str, tuple]]:
    """Which kernel each of `count` draws asked for, and with what."""
    asked: list[tuple[str, tuple]] = []
    for name in ("gaussian", "generalized_gaussian", "plateau", "circular_lowpass"):
        monkeypatch.setattr(kernels, name, lambda *args, name=name: asked.append((name, args)))
    rng = np.random.default_rng(0)
    for _ in range(count):
        draw(rng)
    return asked


def test_blur_kernels_are_drawn_as_the_table_says(monkeypatch):
    count = 8000
    asked = record_draws(monkeypatch, lambda rng: kernels.draw_blur(rng, KernelRanges(sigma=(0.2, 3.0))), count)
    isotropic = {"gaussian": 0.45, "generalized_gaussian": 0.12, "plateau": 0.12}
    anisotropic = {"gaussian": 0.25, "generalized_gaussian": 0.03, "plateau": 0.03}
    betas = {"generalized_gaussian": (0.5, 4.0), "plateau": (1.0, 2.0)}

    def share(condition) -> float:
        return sum(condition(name, args) for name, args in asked) / count

    def close(found: float, expected: float) -> bool:
        return abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / count)

    assert close(share(lambda name, _: name == "circular_lowpass"), 0.1)
    for kind in isotropic:
        assert close(share(lambda name, args, k=kind: name == k and args[1] == args[2]), 0.9 * isotropic[kind])
        assert close(share(lambda name, args, k=kind: name == k and args[1] != args[2]), 0.9 * anisotropic[kind])
    for size in range(7, 22, 2):
        assert close(share(lambda _, args, s=size: args[0] == s), 1 / 8)
    for name, args in asked:
        if name == "circular_lowpass":
            assert (math.pi / 3 if args[0] < 13 else math.pi / 5) <= args[1] <= math.pi
            continue
        assert min(args[1:3]) >= 0.2
        assert max(args[1:3]) <= 3.0
        if name in betas:
            assert betas[name][0] <= args[4] <= betas[name][1]
    sharp = [args[4] < 1 for name, args in asked if name == "generalized_gaussian"]
    assert abs(np.mean(sharp) - 0.5) < 4 * math.sqrt(0.25 / len(sharp))
    assert all(abs(args[3]) <= math.pi for name, args in asked if name != "circular_lowpass")


def test_sizes_and_cutoffs_of_the_last_filter(monkeypatch):
    asked = record_draws(monkeypatch, kernels.draw_final_sinc, 2000)
    assert {name for name, _ in asked} == {"circular_lowpass"}
    assert {args[0] for _, args in asked} == set(range(7, 22, 2))
    cutoffs = np.array([args[1] for _, args in asked])
    assert cutoffs.min() >= math.pi / 3
    assert abs(cutoffs.mean() - 2 * math.pi / 3) < 4 * (2 * math.pi / 3) / math.sqrt(12 * 2000)


def test_a_limited_kernel_size_is_kept():
    ranges = KernelRanges(sigma=(0.2, 1.0), sizes=(7, 9, 11))
    rng = np.random.default_rng(0)
    assert {len(kernels.draw_blur(rng, ranges)) for _ in range(200)} == {7, 9, 11}
