"""Records made beforehand: read as written, complete or not there, damage named, taken up anywhere."""

import itertools
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cassr_jax.data.config import DataConfig
from cassr_jax.data.pipeline import batches
from cassr_jax.data.prepared import PreparedSource, count_records, write_records
from cassr_jax.data.resident import ResidentPool
from cassr_jax.errors import InputError
from cassr_jax.imaging.resizing import bicubic

COUNT, SIDE = 9, 24


def record(index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(index)
    return {
        "record": np.asarray(index, np.int32),
        "lr": rng.integers(0, 256, (6, 6, 3), dtype=np.uint8),
        "reference": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        "latents": rng.normal(size=(6, 6, 4)).astype(np.float16),
    }


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared")
    assert write_records(path / "00001.array_record", map(record, range(4, COUNT))) == COUNT - 4
    assert write_records(path / "00000.array_record", map(record, range(4))) == 4
    return path


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(iterator, count))


def test_records_are_read_as_written_in_the_order_of_the_files_names(folder):
    source = PreparedSource(folder)
    assert len(source) == COUNT
    for index in range(COUNT):
        assert_equal(source[index], record(index))
    assert_equal(source[-1], record(COUNT - 1))
    with pytest.raises(IndexError):
        source[COUNT]
    assert [count_records(file) for file in source.files] == [4, 5]


def test_a_source_is_read_from_threads_and_from_copies(folder):
    source = pickle.loads(pickle.dumps(PreparedSource(folder)))
    with ThreadPoolExecutor(8) as pool:
        for index, found in enumerate(pool.map(lambda i: source[i % COUNT], range(10 * COUNT))):
            assert_equal(found, record(index % COUNT))


def test_a_file_is_complete_or_not_there(tmp_path):
    path = tmp_path / "made" / "x.array_record"
    seen = []

    def interrupted():
        for index in range(3):
            seen.append(path.exists())
            yield record(index)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(path, interrupted())
    assert seen == [False] * 3
    with pytest.raises(InputError, match=r"holds no \*\.array_record file"):
        PreparedSource(path.parent)
    write_records(path, map(record, range(2)))
    with pytest.raises(KeyboardInterrupt):
        write_records(path, interrupted())
    assert count_records(path) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_what_cannot_be_written_is_one_sentence(tmp_path):
    path = tmp_path / "a.array_record"
    path.with_name("a.array_record.unfinished").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"a\.array_record: cannot be written \(.*No space left on device\)"):
        write_records(path, map(record, range(200)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"b\.array_record: cannot be written \((File exists|Not a directory)\)"):
        write_records(tmp_path / "file" / "b.array_record", [record(0)])
    assert not path.exists()


DAMAGES = {
    "empty": lambda data: b"",
    "text": lambda data: b"no records" * 10_000,
    "cut in half": lambda data: data[: len(data) // 2],
    "cut at its end": lambda data: data[:-20],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(folder, tmp_path, damage):
    for file in sorted(folder.glob("*.array_record")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "00001.array_record"
    broken.write_bytes(DAMAGES[damage](broken.read_bytes()))
    with pytest.raises(InputError, match=r"00001\.array_record: not a complete ArrayRecord file"):
        PreparedSource(tmp_path)


def test_a_damaged_record_is_named_and_leaves_the_others_whole(folder, tmp_path):
    for file in sorted(folder.glob("*.array_record")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "00001.array_record"
    data = bytearray(broken.read_bytes())
    data[500] ^= 255  # within the first record: its own chunk starts after the file's first 64 bytes
    broken.write_bytes(data)
    source = PreparedSource(tmp_path)
    with pytest.raises(InputError, match=r"00001\.array_record: record 0 is damaged"):
        source[4]
    for index in (0, 3, 5, 8):
        assert_equal(source[index], record(index))


def test_a_damaged_record_is_skipped_counted_and_named_in_every_epoch(folder, tmp_path, capfd):
    for file in sorted(folder.glob("*.array_record")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "00001.array_record"
    data = bytearray(broken.read_bytes())
    data[500] ^= 255  # record 4 of the set
    broken.write_bytes(data)
    config = DataConfig(str(tmp_path), crop_size=SIDE, prefetch=2)
    stream = batches(config, batch_size=COUNT, seed=0)
    whole = take(batches(replace(config, path=str(folder)), batch_size=COUNT, seed=0), 3)
    for found, expected in zip(take(stream, 3), whole, strict=True):
        changed = np.flatnonzero(found["record"] != expected["record"])
        np.testing.assert_array_equal(expected["record"][changed], [4])
        for name in expected:
            np.testing.assert_array_equal(np.delete(found[name], changed, 0), np.delete(expected[name], changed, 0))
    assert stream.skipped == 3
    lines = capfd.readouterr().err.splitlines()
    assert "left out so far: 3 damaged records" in lines
    assert sum("00001.array_record: record 0 is damaged" in line for line in lines) >= 3


def test_batches_hold_the_records_and_their_enlarged_pictures(folder):
    (batch,) = take(batches(DataConfig(str(folder), crop_size=SIDE, prefetch=2), batch_size=4, seed=0), 1)
    assert set(batch) == {"record", "lr", "reference", "latents", "lq"}
    for i, index in enumerate(batch["record"]):
        expected = record(int(index))
        expected["lq"] = bicubic(expected["lr"], (SIDE, SIDE))
        assert_equal({name: value[i] for name, value in batch.items()}, expected)


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_a_stream_taken_up_from_its_state_goes_on_through_the_epochs(folder, stop):
    config = DataConfig(str(folder), crop_size=SIDE, prefetch=3)
    whole = take(batches(config, batch_size=4, seed=2), 12)
    order = np.concatenate([batch["record"] for batch in whole])
    epochs = [order[i : i + COUNT] for i in range(0, 45, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    stream = batches(config, batch_size=4, seed=2)
    take(stream, stop)
    fresh = batches(config, batch_size=4, seed=2)
    fresh.set_state(stream.get_state())
    for found, expected in zip(take(fresh, 12 - stop), whole[stop:], strict=True):
        assert_equal(found, expected)


def test_prepared_sets_are_mixed_by_weight(folder, tmp_path):
    write_records(tmp_path / "other.array_record", (record(index) for index in range(100, 103)))
    config = DataConfig(mixture={str(folder): 1.0, str(tmp_path): 3.0}, crop_size=SIDE, prefetch=2)
    order = np.concatenate([batch["record"] for batch in take(batches(config, batch_size=12, seed=0), 3)])
    assert np.sum(order < 100) == 9
    assert sorted(order[order < 100]) == list(range(9))
    assert sorted(order[order >= 100]) == sorted(9 * [100, 101, 102])


def test_prepared_records_and_pictures_do_not_mix(folder, tmp_path):
    config = DataConfig(mixture={str(folder): 1.0, str(tmp_path): 1.0})
    with pytest.raises(InputError, match=r"holds prepared records, .* pictures, expected only one kind"):
        batches(config, batch_size=1, seed=0)


@pytest.mark.parametrize(
    ("name", "content", "other"),
    [
        ("photo.PNG", "", "pictures ({}/photo.PNG)"),
        ("div2k/1.0.0/dataset_info.json", '{"name": "", "version": "", "splits": []}', "a built set ({}/div2k/1.0.0)"),
    ],
)
def test_other_data_below_a_folder_of_records_are_not_passed_over(folder, tmp_path, name, content, other):
    file = tmp_path / "a" / "b" / "pairs" / "0.array_record"
    write_records(file, [record(0)])
    (file.parent / "1.array_record.unfinished").write_bytes(b"half a file")
    config = DataConfig(str(tmp_path), crop_size=SIDE, prefetch=2)
    assert next(batches(config, batch_size=1, seed=0))["lq"].shape == (1, SIDE, SIDE, 3)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    message = f"{tmp_path}: holds prepared records ({file}) and {other.format(tmp_path)}, expected only one kind"
    with pytest.raises(InputError, match=re.escape(message)):
        batches(config, batch_size=1, seed=0)
    with pytest.raises(InputError, match="name the folder of the one to use, or move the other elsewhere"):
        ResidentPool(tmp_path, SIDE)


@pytest.mark.parametrize("linked", [False, True])
def test_records_that_cannot_stand_in_one_batch_are_refused_at_once(folder, tmp_path, linked):
    bare = [{name: value for name, value in record(index).items() if name != "latents"} for index in range(3)]
    write_records(tmp_path / "bare" / "other.array_record", bare)
    config = DataConfig(mixture={str(folder): 1.0, str(tmp_path / "bare"): 1.0}, crop_size=SIDE, prefetch=2)
    if linked:
        (tmp_path / "bare" / "more").symlink_to(folder, target_is_directory=True)
        config = DataConfig(str(tmp_path / "bare"), crop_size=SIDE, prefetch=2)
    message = ": its records hold lr .*, expected .* like those of .*: a batch holds records of both"
    with pytest.raises(InputError, match=message) as error:
        batches(config, batch_size=2, seed=0)
    assert str(error.value).count("latents") == 1


def test_records_without_an_lr_are_named(tmp_path):
    write_records(tmp_path / "a.array_record", [{"record": np.int32(0), "hr": np.zeros((8, 8, 3), np.uint8)}])
    with pytest.raises(InputError, match="the records hold hr, record, expected lr among them"):
        batches(DataConfig(str(tmp_path), crop_size=8), batch_size=1, seed=0)


def test_records_of_another_size_than_the_crops_are_refused(folder, tmp_path):
    whole = DataConfig(str(folder), crop_size=SIDE)
    assert next(batches(whole, batch_size=1, seed=0))["lq"].shape == (1, SIDE, SIDE, 3)
    with pytest.raises(InputError, match=r"prepared0: holds records of 24x24 px, expected data.crop_size 16"):
        batches(replace(whole, crop_size=16), batch_size=1, seed=0)
    # Enlarged, it would have 7 GB.
    with pytest.raises(InputError, match=r"prepared0: holds records of 49152x49152 px, expected data.crop_size 8192"):
        batches(replace(whole, crop_size=8192, scale=8192), batch_size=1, seed=0)
