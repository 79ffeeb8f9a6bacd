"""The map of what a result has made up, and masks of what must stay."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from cassr_jax.imaging.invented import FULL, invented
from cassr_jax.imaging.pixels import deepened
from cassr_jax.imaging.protection import mask_for, protected, read_mask
from cassr_jax.imaging.resizing import bicubic
from tests.imaging import pictures

LR = bicubic(pictures.photograph(12, 16), (48, 64))  # no detail that an enlargement could lose
PLAIN = bicubic(LR, (192, 256))


def colors_of(shown: np.ndarray) -> np.ndarray:
    """How much more red and green there is than blue, in each pixel."""
    return shown[..., :2].astype(int) - shown[..., 2:]


def contradictions(shown: np.ndarray) -> np.ndarray:
    """How much more red than green there is in each pixel."""
    return shown[..., 0].astype(int) - shown[..., 1]


def test_an_enlargement_invents_nothing():
    shown = invented(PLAIN, LR)
    assert (shown.shape, shown.dtype) == (PLAIN.shape, np.uint8)
    assert colors_of(shown).max() < 40


def test_fine_detail_is_yellow_and_a_contradiction_red():
    made = PLAIN.astype(int)
    made[:96, :128] += np.where(np.indices((96, 128)).sum(0) % 2, 60, -60)[..., None]  # which reducing averages away
    made[96:, 128:] += np.where(np.indices((96, 128)).sum(0) % 2, 100, 80)[..., None]
    made = np.clip(made, 0, 255).astype(np.uint8)
    for one, lr in ((made, LR), (deepened(made), deepened(LR))):
        red, green = np.moveaxis(colors_of(invented(one, lr)), -1, 0)
        assert min(red[16:80, 16:112].mean(), green[16:80, 16:112].mean()) > 150
        assert red[112:176, 144:240].mean() > 150
        assert green[112:176, 144:240].mean() < 20
        assert max(red[16:80, 144:240].mean(), green[16:80, 144:240].mean()) < 40


def test_what_blurs_a_photograph_is_no_contradiction_but_a_shift_is():
    sharp = pictures.photograph(192, 256)
    blurred = Image.fromarray(bicubic(sharp, (48, 64))).filter(ImageFilter.GaussianBlur(1.2))
    moved = np.roll(sharp, 12, 1)  # by three pixels of the photograph
    red, moved_red = (contradictions(invented(made, np.asarray(blurred))) for made in (sharp, moved))
    assert np.percentile(red, 95) < 40
    assert np.percentile(moved_red, 95) > 4 * np.percentile(red, 95)


def test_the_brightness_is_the_difference():
    for levels in (FULL / 4, FULL / 2):
        made, lr = np.full((64, 64, 3), 100 + int(levels), np.uint8), np.full((16, 16, 3), 100, np.uint8)
        shown = colors_of(invented(made, lr))
        assert shown[..., 0].mean() == pytest.approx(255 * levels / FULL, rel=0.05)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_a_mask_protects_is_kept(tmp_path, kind):
    made, kept = (np.full((40, 60, 3), value, kind) for value in (200, 100))
    mask = np.zeros((20, 30, 3), np.uint8)
    mask[:, :10], mask[:, 10:20] = 255, 128
    io.write(tmp_path / "mask.png", io.Picture(mask))
    found = protected(made, kept, read_mask(tmp_path / "mask.png", made))
    assert (found.dtype, found.shape) == (kind, made.shape)
    assert [int(found[20, x, 0]) for x in (6, 30, 54)] == [100, pytest.approx(150, abs=1), 200]


def test_a_mask_of_another_shape_is_refused(tmp_path):
    io.write(tmp_path / "mask.png", io.Picture(np.zeros((20, 20, 3), np.uint8)))
    with pytest.raises(InputError, match=r"mask\.png: is 20x20 px beside a picture of 30x20 px, expected a"):
        read_mask(tmp_path / "mask.png", np.zeros((20, 30, 3), np.uint8))


def test_a_folder_has_a_mask_of_each_name(tmp_path):
    for name in ("a.png", "b.png", "b.jpg", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert mask_for(tmp_path, "a") == tmp_path / "a.png"
    assert mask_for(tmp_path, "c") is None
    assert mask_for(tmp_path / "a.png", "anything") == tmp_path / "a.png"
    with pytest.raises(InputError, match=r"holds b\.jpg and b\.png, expected one mask of a picture"):
        mask_for(tmp_path, "b")
