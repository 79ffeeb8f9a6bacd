"""Resizing equals torch's `interpolate`: recorded values always, the live program where it is installed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.data.resize import MODES, resize
from tests.data.measures import small_picture

SIDE = st.integers(1, 70)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "golden" / "degradation.npz") as file:
        return dict(file)


@pytest.mark.parametrize("mode", MODES)
def test_resizing_equals_the_recorded_interpolate(golden, mode):
    image = small_picture()
    for height, width in golden["sizes"].tolist():
        expected = golden[f"resize_{mode}_{height}x{width}"]
        np.testing.assert_allclose(resize(image, (height, width), mode), expected, atol=3e-6)


@pytest.mark.reference
@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=40)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 9))
def test_resizing_equals_interpolate(mode, height, width, new_height, new_width, seed):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(tensor, size=(new_height, new_width), mode=mode)
    expected = expected[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(resize(image, (new_height, new_width), mode), expected, atol=2e-5)


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=25)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 9))
def test_resizing_knows_no_direction_and_keeps_flat_pictures(mode, height, width, new_height, new_width, seed):
    image = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    size = (new_height, new_width)
    resized = resize(image, size, mode)
    assert resized.shape == (*size, 3)
    assert resized.dtype == np.float32
    # Turned before or after, the result is the same: nothing is moved.
    np.testing.assert_allclose(resize(image[::-1, ::-1].copy(), size, mode)[::-1, ::-1], resized, atol=2e-5)
    np.testing.assert_allclose(resize(np.full_like(image, 0.3), size, mode), 0.3, atol=1e-6)
