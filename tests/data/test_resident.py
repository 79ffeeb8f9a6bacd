"""A set on the device: windows stay in register, and what is drawn depends on the key alone."""

import jax
import numpy as np
import pytest

from cassr_jax.data.prepared import write_records
from cassr_jax.data.resident import ResidentPool, draw
from cassr_jax.errors import InputError
from cassr_jax.imaging.resizing import bicubic

SIDE, CROP, SCALE = 32, 16, 4


def record(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lr = rng.integers(0, 256, (SIDE // SCALE, SIDE // SCALE, 3), np.uint8)
    enlarged = bicubic(lr, (SIDE, SIDE))
    return {"lr": lr, "hr": enlarged, "reference": 255 - enlarged, "latents": np.zeros(1)}


@pytest.fixture
def folder(tmp_path):
    write_records(tmp_path / "a" / "00000.array_record", [record(0), record(1)])
    write_records(tmp_path / "b" / "00000.array_record", [record(2)])
    return tmp_path


def test_pairs_stay_in_register_and_are_enlarged_as_at_inference(folder):
    data = ResidentPool(folder, CROP)
    batch = jax.jit(lambda pool, key: draw(pool, key, 64, CROP))(next(data), jax.random.key(0))
    assert {name: image.shape for name, image in batch.items()} == dict.fromkeys(
        ("hr", "lq", "reference"), (64, CROP, CROP, 3)
    )
    hr, lq = (np.asarray(batch[name]).astype(int) for name in ("hr", "lq"))
    np.testing.assert_array_equal(255 - hr, batch["reference"])
    # Pillow works in integers: a level of difference, seldom.
    assert np.abs(hr - lq).max() <= 1
    assert (hr != lq).mean() < 0.05


def test_every_record_turn_and_corner_is_drawn(folder):
    pool = next(ResidentPool(folder, CROP))
    batch = draw(pool, jax.random.key(0), 6000, CROP)
    found = {image.tobytes() for image in np.asarray(batch["hr"])}
    starts = range(0, SIDE - CROP + 1, SCALE)  # whole pixels of the low-resolution picture
    windows = [hr[y : y + CROP, x : x + CROP] for hr in pool["hr"] for y in starts for x in starts]
    turned = [np.rot90(mirrored, k) for window in windows for mirrored in (window, window[::-1]) for k in range(4)]
    assert found == {np.ascontiguousarray(image).tobytes() for image in turned}
    assert len(found) == len(turned)


def test_what_is_drawn_depends_on_the_key(folder):
    pool = next(ResidentPool(folder, CROP))
    first, again, other = (draw(pool, jax.random.key(seed), 8, CROP)["hr"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_records_that_do_not_fit_are_named(tmp_path):
    write_records(tmp_path / "small.array_record", [record(0)])
    with pytest.raises(InputError, match="shorter side is 32 px, expected at least crop_size 64"):
        ResidentPool(tmp_path, 64)
    odd = {name: image[:16] for name, image in record(1).items()}
    write_records(tmp_path / "uneven.array_record", [odd])
    with pytest.raises(InputError, match=r"record 1 has hr \(16, 32, 3\), expected \(32, 32, 3\)"):
        ResidentPool(tmp_path, CROP)
    write_records(tmp_path / "linked" / "a.array_record", [record(0)])
    lacking = {name: image for name, image in record(1).items() if name != "reference"}
    write_records(tmp_path / "linked" / "b.array_record", [lacking])
    with pytest.raises(InputError, match=r"record 1 has reference of no shape, expected \(32, 32, 3\) like the first"):
        ResidentPool(tmp_path / "linked", CROP)
    write_records(tmp_path / "none" / "a.array_record", [{"lr": np.zeros((8, 8, 3), np.uint8)}])
    with pytest.raises(InputError, match="expected hr"):
        ResidentPool(tmp_path / "none", CROP)
