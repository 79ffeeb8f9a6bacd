"""Windows are judged by the same measure as a direct evaluation, and crops come from where they should."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cassr_jax.data import crops
from cassr_jax.data.crops import SHARP, TILE, Enlarged, Windows, find_all_windows, find_windows, laplacian, random_crop
from cassr_jax.data.crops import window_variances as variances
from cassr_jax.errors import InputError


def half_sharp(height: int = 512, width: int = 768, *, seed: int = 0) -> np.ndarray:
    """Noise on the left half, flat grey on the right; its columns are numbered in the blue channel of row 0."""
    image = np.full((height, width, 3), 128, np.uint8)
    image[:, : width // 2] = np.random.default_rng(seed).integers(0, 256, (height, width // 2, 3))
    return image


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 24), st.integers(1, 9), st.integers(0, 99))
def test_window_variances_are_those_of_the_windows(height, width, size, stride, seed):
    values = np.random.default_rng(seed).normal(0, 50, (height, width)).astype(np.float32)
    found = variances(values, size, stride)
    tops, lefts = range(0, height - size + 1, stride), range(0, width - size + 1, stride)
    expected = [[values[t : t + size, x : x + size].astype(np.float64).var() for x in lefts] for t in tops]
    assert found.shape == (len(tops), len(lefts))
    np.testing.assert_allclose(found, np.reshape(expected, found.shape), rtol=1e-6, atol=1e-6)


def test_sharpness_is_the_variance_of_the_laplacian_of_grey():
    image = half_sharp()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    expected = cv2.Laplacian(grey.astype(np.float32), cv2.CV_32F)
    np.testing.assert_array_equal(laplacian(image), expected)
    tiles = [expected[t : t + TILE, x : x + TILE].var() for t in (0, 256) for x in (0, 256, 512)]
    assert find_windows(image, 128).tiles == sum(v >= SHARP for v in tiles) == 4


def test_every_indexed_window_is_sharp_and_no_other_is():
    image = half_sharp()
    windows = find_windows(image, 64)
    corners = {tuple(c) for c in windows.corners.tolist()}
    values = laplacian(image)
    for top in range(0, 512 - 64 + 1, windows.stride):
        for left in range(0, 768 - 64 + 1, windows.stride):
            window = values[top : top + 64, left : left + 64]
            assert ((top, left) in corners) == bool(window.var() >= SHARP)


@pytest.mark.parametrize("sharp", [0.0, 0.7, 1.0])
def test_the_share_of_sharp_crops_is_the_one_asked_for(sharp):
    image = half_sharp()
    windows = find_windows(image, 64)
    rng = np.random.default_rng(1)
    draws = 600
    # A crop from anywhere touches the noisy half when its left edge lies before it: 384 of 705 positions.
    noisy = np.mean([random_crop(rng, image, 64, windows, sharp=sharp).std() > 1 for _ in range(draws)])
    expected = sharp + (1 - sharp) * 384 / 705
    assert abs(noisy - expected) < 4 * np.sqrt(0.25 / draws)


def test_a_picture_without_a_sharp_window_still_gives_crops():
    image = np.full((300, 300, 3), 7, np.uint8)
    windows = find_windows(image, 64)
    assert len(windows.corners) == 0
    assert windows.tiles == 0
    np.testing.assert_array_equal(
        random_crop(np.random.default_rng(0), image, 64, windows, sharp=1.0), np.full((64, 64, 3), 7, np.uint8)
    )


def test_every_position_can_be_drawn_and_half_the_crops_are_mirrored():
    image = np.zeros((12, 12, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(12)[:, None], np.arange(12)
    nowhere = Windows(np.zeros((0, 2), np.int32), 8, 0)
    rng = np.random.default_rng(0)
    crops = [random_crop(rng, image, 8, nowhere) for _ in range(800)]
    assert {(int(c[0, :, 0].min()), int(c[0, :, 1].min())) for c in crops} == {
        (t, x) for t in range(5) for x in range(5)
    }
    mirrored = np.mean([c[0, 0, 1] > c[0, 1, 1] for c in crops])
    assert abs(mirrored - 0.5) < 4 * np.sqrt(0.25 / 800)


class Pictures(list[np.ndarray]):
    def origin(self, index: int) -> str:
        return f"{index}.png"


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 64))
@example(6, 27, 53)
def test_a_small_picture_is_enlarged_until_its_shorter_side_fits(height, width, size):
    image = np.zeros((height, width, 3), np.uint8)
    enlarged = Enlarged(Pictures([image]), size)[0]
    assert min(enlarged.shape[:2]) == max(size, min(height, width))
    scale = max(1.0, size / min(height, width))
    for found, exact in zip(enlarged.shape[:2], (height * scale, width * scale), strict=True):
        assert abs(found - exact) <= 0.5 + 1e-9  # halves are rounded either way, and the product itself is rounded
    crop = random_crop(np.random.default_rng(0), enlarged, size, find_windows(enlarged, size))
    assert crop.shape == (size, size, 3)
    assert crop.flags.c_contiguous


def test_a_crop_of_a_shrunk_picture_shows_more_of_it():
    """Of a picture whose red grows from left to right, the crop's own range of red says how much of it is seen."""
    ramp = np.zeros((256, 512, 3), np.uint8)
    ramp[..., 0] = np.arange(512) // 2
    windows = find_windows(ramp, 64)
    seen = []
    for seed in range(200):
        crop = random_crop(np.random.default_rng(seed), ramp, 64, windows, min_scale=0.25)
        assert crop.shape == (64, 64, 3)
        seen.append(2 * (int(crop[..., 0].max()) - int(crop[..., 0].min())) / 64)
    assert min(seen) < 1.2
    assert 3.5 < max(seen) <= 4.1  # 4: the whole height, which a quarter of 64 px asks for
    whole = random_crop(np.random.default_rng(0), ramp[:64], 64, windows, min_scale=0.25)
    assert whole.shape == (64, 64, 3)


def test_the_index_of_a_source_is_in_its_order():
    images = [half_sharp(), np.zeros((256, 256, 3), np.uint8), half_sharp(seed=3)]
    together = find_all_windows(images, 64, threads=3)
    assert [w.tiles for w in together] == [find_windows(image, 64).tiles for image in images] == [4, 0, 4]


def test_what_was_found_is_kept_in_a_file(tmp_path, monkeypatch):
    images = [half_sharp(300, 300, seed=seed) for seed in range(3)]
    file = tmp_path / "windows.npz"
    found = find_all_windows(images, 64, file=file)
    assert file.is_file()
    monkeypatch.setattr(crops, "find_windows", lambda *_: pytest.fail("looked through again"))
    for kept, expected in zip(find_all_windows(images, 64, file=file), found, strict=True):
        np.testing.assert_array_equal(kept.corners, expected.corners)
        assert kept.corners.dtype == expected.corners.dtype
        assert (kept.stride, kept.tiles) == (expected.stride, expected.tiles)


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_or_foreign_file_of_windows_is_made_anew(tmp_path, content):
    images = [half_sharp(300, 300, seed=seed) for seed in range(3)]
    file = tmp_path / "windows.npz"
    find_all_windows(images[:2], 64, file=file)
    if content is not None:
        file.write_bytes(content)
    assert len(find_all_windows(images, 64, file=file)) == 3
    assert len(np.load(file)["tiles"]) == 3


def test_windows_of_a_set_with_damage_are_not_kept(tmp_path, capsys):
    class Damaged(list):
        def __getitem__(self, index):
            if index == 1:
                raise InputError("record 1 is damaged")
            return super().__getitem__(index)

    file = tmp_path / "windows.npz"
    found = find_all_windows(Damaged([half_sharp(300, 300, seed=0)] * 3), 64, file=file)
    assert [windows is None for windows in found] == [False, True, False]
    assert capsys.readouterr().err == "left out: record 1 is damaged\n"
    assert not file.exists()
    (tmp_path / "file").write_text("")
    assert len(find_all_windows([half_sharp(300, 300, seed=0)], 64, file=tmp_path / "file" / "windows.npz")) == 1
