"""The stream of batches: the same for the same seed, whoever makes it; taken up anywhere; covering the set."""

import itertools
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cassr_jax.commands import build
from cassr_jax.data.config import DataConfig
from cassr_jax.data.crops import Windows, find_all_windows, random_crop
from cassr_jax.data.degradation import degrade
from cassr_jax.data.pipeline import batches, open_pictures, open_records, record_maker, visits
from cassr_jax.data.presets import PRESETS
from cassr_jax.data.sources import FolderSource
from cassr_jax.errors import InputError
from cassr_jax.imaging import memory
from cassr_jax.imaging.resizing import bicubic
from tests.data.measures import picture

PICTURES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    for index in range(PICTURES):
        image = picture(80, seed=index)
        image[..., 2] = index  # blue tells pictures apart in any crop
        Image.fromarray(image).save(path / f"{index}.png")
    return str(path)


def configure(folder: str, **settings: Any) -> DataConfig:
    """Narrow: few records are kept ready, since few are taken."""
    return DataConfig(folder, **{"crop_size": 32, "prefetch": 2} | settings)


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(iterator, count))


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def records(stream) -> list[dict[str, np.ndarray]]:
    """Batches taken apart."""
    return [{key: batch[key][i] for key in batch} for batch in stream for i in range(len(batch["record"]))]


def test_shapes_and_types(folder):
    plain = next(batches(configure(folder), batch_size=3, seed=0))
    assert {key: (value.shape, value.dtype) for key, value in plain.items()} == {
        "hr": ((3, 32, 32, 3), np.uint8),
        "record": ((3,), np.int32),
    }
    paired = next(batches(configure(folder, preset="light"), batch_size=3, seed=0))
    assert paired["hr"].shape == (3, 32, 32, 3)
    assert paired["lr"].shape == (3, 8, 8, 3)
    assert paired["lr"].dtype == np.uint8
    half = next(batches(configure(folder, preset="light", scale=2), batch_size=1, seed=0))
    assert half["lr"].shape == (1, 16, 16, 3)


def test_a_record_is_a_crop_of_the_picture_it_names(folder):
    for record in records(take(batches(configure(folder, crop_size=24), batch_size=5, seed=3), 4)):
        assert np.all(record["hr"][..., 2] == record["record"])
        image = picture(80, seed=int(record["record"]))
        windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (24, 24))
        for crop in (record["hr"][..., 0], record["hr"][:, ::-1, 0]):
            found = np.any(np.all(windows == crop, axis=(2, 3)))
            if found:
                break
        assert found


def test_the_low_resolution_picture_belongs_to_its_target(folder):
    batch = next(batches(configure(folder, crop_size=64, preset="light"), batch_size=32, seed=0))
    colors = batch["lr"].mean((1, 2)) - batch["hr"].mean((1, 2))
    # Blur and noise hardly move the mean; another picture's differs by tens.
    assert np.abs(colors[:, 1]).max() < 8


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(folder):
    config = configure(folder, preset="realesrgan")
    first = take(batches(config, batch_size=4, seed=5), 6)
    assert_equal(first, take(batches(config, batch_size=4, seed=5), 6))
    other = take(batches(config, batch_size=4, seed=6), 6)
    for a, b in zip(first, other, strict=True):
        assert not np.array_equal(a["hr"], b["hr"])


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_records_depend_neither_on_threads_nor_on_the_batch(folder, threads):
    config = configure(folder, preset="light")
    expected = records(take(batches(config, batch_size=4, seed=1), 6))
    config = replace(config, num_threads=threads, prefetch=max(1, threads))
    assert_equal(records(take(batches(config, batch_size=3, seed=1), 8)), expected)


def test_processes_share_the_one_stream(folder):
    config = configure(folder, preset="light")
    one = batches(config, batch_size=6, seed=1)
    three = [batches(config, batch_size=2, seed=1, process_index=p, process_count=3) for p in range(3)]

    def joined(count: int) -> list[dict[str, np.ndarray]]:
        return records([part for _ in range(count) for part in map(next, three)])

    assert_equal(joined(5), records(take(one, 5)))
    # Taken up from the state of any number of processes.
    state = three[1].get_state()
    take(one, 3)
    one.set_state(state)
    assert_equal(records(take(one, 2)), joined(2))


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_a_stream_taken_up_from_its_state_goes_on_as_if_uninterrupted(folder, stop):
    config = configure(folder, preset="light")
    expected = take(batches(config, batch_size=4, seed=2), stop + 4)
    interrupted = batches(config, batch_size=4, seed=2)
    take(interrupted, stop)
    state = interrupted.get_state()
    assert_equal(take(interrupted, 4), expected[stop:])
    interrupted.set_state(state)
    assert_equal(take(interrupted, 4), expected[stop:])
    fresh = batches(config, batch_size=4, seed=2)
    fresh.set_state(state)
    assert_equal(take(fresh, 4), expected[stop:])


def test_every_epoch_visits_every_picture_in_another_order(folder):
    config = configure(folder)
    order = [int(r["record"]) for r in records(take(batches(config, batch_size=PICTURES, seed=0), 6))]
    epochs = [order[i : i + PICTURES] for i in range(0, len(order), PICTURES)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(PICTURES))
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_a_picture_is_visited_once_for_each_sharp_tile_and_at_least_once():
    none = np.zeros((0, 2), np.int32)
    assert visits([*(Windows(none, 8, tiles) for tiles in (0, 3, 1)), None]).tolist() == [0, 1, 1, 1, 2]


def test_crops_of_one_picture_differ_from_visit_to_visit(folder):
    stream = records(take(batches(configure(folder), batch_size=PICTURES, seed=0), 12))
    crops = {record["hr"].tobytes() for record in stream if record["record"] == 2}
    assert len(crops) == 12


def test_small_and_odd_pictures_give_whole_crops(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (50, 31), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 256, (9, 70, 3), dtype=np.uint8)).save(tmp_path / "low.png")
    Image.fromarray(rng.integers(0, 256, (1, 1, 3), dtype=np.uint8)).save(tmp_path / "dot.png")
    Image.fromarray(rng.integers(0, 256, (65, 67, 4), dtype=np.uint8)).save(tmp_path / "odd.png")
    Image.fromarray(rng.integers(0, 2**16, (48, 48), dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(rng.integers(0, 256, (40, 90, 4), dtype=np.uint8), "CMYK").save(tmp_path / "cmyk.jpg")
    config = configure(str(tmp_path), crop_size=48, preset="stablesr")
    stream = records(take(batches(config, batch_size=4, seed=0), 6))
    assert {int(record["record"]) for record in stream} == set(range(6))
    for record in stream:
        assert record["hr"].shape == (48, 48, 3)
        assert record["lr"].shape == (12, 12, 3)


@pytest.fixture(scope="module")
def sets(folder, tmp_path_factory):
    """The folder's pictures again, built, after three others in a folder: numbers 0 to 2 and 3 to 9 of a mixture."""
    path = tmp_path_factory.mktemp("sets")
    (path / "plain").mkdir()
    for index in range(3):
        Image.fromarray(picture(80, seed=100 + index)).save(path / "plain" / f"{index}.png")
    assert build.main(["--dataset", "folder", "--images", folder, "--output", str(path / "built")]) == 0
    return {str(path / "plain"): 1.0, str(path / "built"): 2.0}


def mix(sets, **settings: Any) -> DataConfig:
    return DataConfig(mixture=sets, crop_size=32, prefetch=2, **settings)


def test_a_mixture_has_its_shares_and_visits_each_set_as_a_whole(sets):
    order = [int(r["record"]) for r in records(take(batches(mix(sets), batch_size=6, seed=0), 21))]
    for i in range(0, len(order), 6):
        assert sum(index < 3 for index in order[i : i + 6]) == 2
    for numbers in (range(3), range(3, 10)):
        visited = [index for index in order if index in numbers]
        epochs = [visited[i : i + len(numbers)] for i in range(0, len(visited), len(numbers))]
        assert all(sorted(epoch) == list(numbers) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 2


def test_a_mixture_is_one_stream_for_all_processes_and_is_taken_up(sets):
    config = mix(sets, preset="light")
    whole = records(take(batches(config, batch_size=6, seed=1), 4))
    shares = [take(batches(config, batch_size=2, seed=1, process_index=p, process_count=3), 4) for p in range(3)]
    assert_equal(records([part for parts in zip(*shares, strict=True) for part in parts]), whole)
    stream = batches(config, batch_size=6, seed=1)
    take(stream, 2)
    fresh = batches(config, batch_size=6, seed=1)
    fresh.set_state(stream.get_state())
    assert_equal(records(take(fresh, 2)), whole[12:])


def test_a_built_set_gives_crops_of_the_pictures_it_names(sets):
    (_, built) = sets
    source = open_pictures(built, cache_bytes=0)
    for record in records(take(batches(configure(built), batch_size=4, seed=0), 2)):
        blue = source[int(record["record"])][0, 0, 2]
        assert np.all(record["hr"][..., 2] == blue)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(), "data: found neither path nor mixture, expected one of the two"),
        (DataConfig("a", mixture={"b": 1.0}), "data: found path 'a' and a mixture, expected one of the two"),
        (DataConfig(mixture={"nowhere": 1.0}), "nowhere: is not a folder"),
    ],
)
def test_one_path_or_a_mixture_is_expected(config, message):
    with pytest.raises(InputError, match=message):
        batches(config, batch_size=1, seed=0)


def test_damaged_pictures_are_left_out_and_named(folder, tmp_path, capfd):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(Path(folder, f"{index}.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"nothing")
    stream = batches(configure(str(tmp_path)), batch_size=4, seed=0)
    assert {int(record["record"]) for record in records(take(stream, 4))} == {0, 2}
    assert stream.skipped == 0  # it was known before the first record was made
    assert "left out: " + str(tmp_path / "1.png") in capfd.readouterr().err
    for name in ("0.png", "2.png"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of its pictures can be read"):
        batches(configure(str(tmp_path)), batch_size=4, seed=0)


def test_a_picture_too_thin_to_be_enlarged_is_left_out_and_named(folder, tmp_path, capfd, monkeypatch):
    own = shutil.copytree(folder, tmp_path / "own")
    Image.fromarray(np.zeros((1, 3000, 3), np.uint8)).save(own / "thin.png")  # 96000 x 32 px, 28 bytes each
    monkeypatch.setattr(memory, "installed", lambda: 80_000_000)
    sources = take(batches(configure(own), batch_size=4, seed=9), 6)
    assert len(FolderSource(own)) - 1 not in np.concatenate([batch["record"] for batch in sources])
    assert capfd.readouterr().err == (
        f"left out: {own / 'thin.png'}: the 96000x32 px to which it is enlarged for a crop need about 86 MB of memory, "
        "expected at most 80 MB, which this machine has; choose a smaller data.crop_size or leave it out\n"
    )


def test_a_picture_that_breaks_later_is_replaced(folder, tmp_path, capfd):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(Path(folder, f"{index}.png").read_bytes())
    stream = batches(configure(str(tmp_path), cache_bytes=0), batch_size=6, seed=0)
    (tmp_path / "1.png").write_bytes(b"nothing")
    found = records(take(stream, 2))
    assert {int(record["record"]) for record in found} == {0, 2}
    assert stream.skipped == 4
    assert "left out so far: 4 damaged records" in capfd.readouterr().err


def test_seeds_of_any_size_differ(folder):
    crops = {
        next(batches(configure(folder), batch_size=2, seed=seed))["hr"].tobytes() for seed in (0, 2**32, 2**63 - 1)
    }
    assert len(crops) == 3
    with pytest.raises(InputError, match="seed is -1, expected a whole number of at least 0"):
        batches(configure(folder), batch_size=2, seed=-1)


@pytest.mark.parametrize("kind", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_worker_that_dies_is_an_error_and_no_hang(folder, kind):
    config = configure(folder, preset="light", num_workers=2, num_threads=1)
    stream = batches(config, batch_size=3, seed=0)
    next(stream)
    os.kill(multiprocessing.active_children()[0].pid, kind)
    with pytest.raises(InputError, match=rf"data\.num_workers: a worker process has died .*exit code -{kind:d}"):
        take(stream, 100)
    stream.close()


def test_the_state_is_a_number_of_examples_whatever_the_batch(folder):
    config = configure(folder, preset="light")
    expected = records(take(batches(config, batch_size=4, seed=4), 4))
    first = batches(config, batch_size=4, seed=4)
    take(first, 1)
    assert first.get_state() == {"examples": 4}
    shares = [batches(config, batch_size=1, seed=4, process_index=p, process_count=2) for p in range(2)]
    for share in shares:
        share.set_state(first.get_state())
    found = [take(share, 3) for share in shares]
    assert shares[0].get_state() == {"examples": 10}
    assert_equal(records([part for parts in zip(*found, strict=True) for part in parts]), expected[4:10])
    last = batches(config, batch_size=3, seed=4)
    last.set_state(shares[1].get_state())
    assert_equal(records(take(last, 2)), expected[10:])


@pytest.mark.parametrize("state", [None, {}, {"next_index": 3}, {"examples": "3"}])
def test_another_state_is_refused(folder, state):
    with pytest.raises(InputError, match=r"the state of the data is .*, expected a number of examples"):
        batches(configure(folder), batch_size=1, seed=0).set_state(state)


def test_the_number_of_workers_may_change_where_a_stream_is_taken_up(folder):
    config = configure(folder, preset="light", num_threads=1)
    expected, found, state = take(batches(config, batch_size=3, seed=4), 6), [], {"examples": 0}
    for workers in (0, 2, 1):
        stream = batches(replace(config, num_workers=workers), batch_size=3, seed=4)
        stream.set_state(state)
        found += take(stream, 2)
        state = stream.get_state()
        stream.close()
    assert_equal(found, expected)


@pytest.mark.slow
def test_worker_processes_give_the_same_stream_and_can_be_taken_up(folder):
    config = configure(folder, preset="light", num_threads=1)
    expected = take(batches(config, batch_size=3, seed=4), 8)
    workers = batches(replace(config, num_workers=2, prefetch=4), batch_size=3, seed=4)
    assert_equal(take(workers, 4), expected[:4])
    state = workers.get_state()
    assert_equal(take(workers, 4), expected[4:])
    workers.set_state(state)
    assert_equal(take(workers, 4), expected[4:])


@pytest.mark.slow
def test_a_run_killed_twice_goes_on_with_workers_as_without_interruption(sets):
    """Both times inside an epoch, with more records ready than were taken, by fresh processes each time."""
    config = mix(sets, preset="light", num_threads=1)
    expected = take(batches(config, batch_size=6, seed=4), 14)
    found, state = [], None
    for steps in (7, 2, 5):
        stream = batches(replace(config, num_workers=2), batch_size=6, seed=4)
        if state is not None:
            stream.set_state(state)
        found += take(stream, steps)
        state = stream.get_state()
        stream.close()
    assert_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "heavy"}, "preset is 'heavy', expected one of light, realesrgan, stablesr"),
        ({"crop_size": 30}, "crop_size is 30, expected a multiple of scale, which is 4"),
        ({"crop_size": 0}, "crop_size is 0, expected a whole number of at least 1"),
        ({"crop_size": 8196}, "crop_size is 8196, expected a whole number of at least 1 and at most 8192"),
        ({"mixture": {"": 1.0}}, "a path of mixture is '', expected a path; "),
        ({"sharp_fraction": 1.5}, "sharp_fraction is 1.5, expected a number of at least 0 and at most 1"),
        ({"mixture": {"a": 0.0}}, r"mixture\.a is 0.0, expected a number above 0"),
        ({"min_scale": 0.0}, "min_scale is 0.0, expected a number above 0 and at most 1"),
        ({"scale": 0}, "scale is 0, expected a whole number of at least 1"),
        ({"num_workers": -1}, "num_workers is -1, expected a whole number of at least 0"),
        ({"path": "s3://bucket/set"}, "path is s3://bucket/set, an address, expected a path on this machine"),
        ({"mixture": {"s3://b": 1.0}}, "a path of mixture is s3://b, an address"),
        ({"mixture": {"a": 1.0}, "resident": True}, "resident: not possible with a mixture"),
        ({"held_out": 1.0}, "held_out is 1.0, expected a number of at least 0 and below 1"),
        ({"held_out": 0.1, "resident": True}, "held_out is 0.1, expected 0: resident trains on all records"),
    ],
)
def test_a_wrong_setting_is_named(change, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**{"path": "anywhere"} | change)


@pytest.mark.parametrize(("share", "expected"), [(0.3, {3, 6}), (0.5, {1, 3, 5})])
def test_what_is_held_out_is_never_trained_on(folder, share, expected):
    """Of seven pictures; in many visits to each, none is in both streams."""
    opened = open_records(configure(folder, held_out=share))
    assert opened.held is not None
    held, rest = ({int(stream[i]["record"]) for i in range(4 * PICTURES)} for stream in (opened.held(1), opened(1)))
    assert held == expected
    assert rest == set(range(PICTURES)) - expected


def test_a_share_that_leaves_nothing_is_refused(folder):
    with pytest.raises(InputError, match=r"held_out 0\.1 of its 7 records leaves none to validate on, expected some"):
        open_records(configure(folder, held_out=0.1))


def test_a_preset_changes_neither_which_picture_nor_which_crop(folder):
    plain = take(batches(configure(folder), batch_size=4, seed=9), 2)
    paired = take(batches(configure(folder, preset="light"), batch_size=4, seed=9), 2)
    assert_equal([{key: batch[key] for key in ("hr", "record")} for batch in paired], plain)


def test_a_record_is_made_by_the_public_functions(folder):
    source = FolderSource(folder)
    windows = find_all_windows(source, 32)
    config = configure(folder, preset="realesrgan")
    made = record_maker(config, source, windows)(3, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    lr, hr = degrade(random_crop(rng, source[3], 32, windows[3], sharp=0.9), rng, PRESETS["realesrgan"])
    assert made.pop("skipped") == 0
    assert_equal([made], [{"record": np.int32(3), "hr": hr, "lr": lr, "lq": bicubic(lr, (32, 32))}])
