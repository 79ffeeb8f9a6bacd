"""A folder's pictures come sorted, upright, in 8-bit RGB whatever they are, and are kept within the memory allowed."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cassr_jax.data import sources
from cassr_jax.data.sources import FolderSource, Joined, find_part, find_set, picture_files, read_or_replace
from cassr_jax.errors import InputError
from cassr_jax.files import write_json
from cassr_jax.imaging import inputs
from tests.data.measures import picture


def test_records_are_sorted_by_name_and_other_files_are_left(tmp_path):
    (tmp_path / "b").mkdir()
    images = {name: picture(16, seed) for seed, name in enumerate(["z.png", "a.PNG", "b/c.png"])}
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    source = FolderSource(tmp_path)
    assert source.keys == ["a.PNG", "b/c.png", "z.png"]
    assert len(source) == 3
    for index, key in enumerate(source.keys):
        np.testing.assert_array_equal(source[index], images[key])
        np.testing.assert_array_equal(source[index - 3], images[key])
    with pytest.raises(IndexError):
        source[3]


def test_every_mode_becomes_8_bit_rgb(tmp_path):
    rgb = picture(24, seed=0)[:, :20]
    grey = rgb[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([rgb, np.full(grey.shape, 90, np.uint8)])).save(tmp_path / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(rgb).quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(grey > 127).save(tmp_path / "bilevel.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side
    Image.fromarray(np.rot90(rgb).copy()).save(tmp_path / "turned.png", exif=turned)
    source = FolderSource(tmp_path)
    found = {key: source[index] for index, key in enumerate(source.keys)}
    for image in found.values():
        assert image.dtype == np.uint8
        assert image.shape == (24, 20, 3)
    np.testing.assert_array_equal(found["grey.png"], np.dstack([grey] * 3))
    np.testing.assert_array_equal(found["deep.png"], np.dstack([grey] * 3))
    np.testing.assert_array_equal(found["rgba.png"], rgb)
    np.testing.assert_array_equal(found["turned.png"], rgb)
    np.testing.assert_array_equal(found["bilevel.png"], np.dstack([(grey > 127) * np.uint8(255)] * 3))
    assert np.abs(found["cmyk.tif"].astype(int) - rgb).max() <= 2
    assert len(np.unique(found["palette.png"].reshape(-1, 3), axis=0)) <= 8


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: is not a folder"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no picture"):
        FolderSource(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(InputError, match=r"broken\.png"):
        FolderSource(tmp_path)[0]


def test_sets_behind_links_are_taken_as_a_whole(tmp_path):
    """A training folder that gathers others by links, one of which leads back."""
    for name in ("div2k/a.png", "flickr/deep/b.jfif", "train/own.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(picture(16, 0)).save(tmp_path / name, format="PNG")
    for name in ("div2k", "flickr"):
        (tmp_path / "train" / name).symlink_to(tmp_path / name)
    (tmp_path / "flickr" / "deep" / "back").symlink_to(tmp_path / "train")
    source = FolderSource(tmp_path / "train")
    assert source.keys == ["div2k/a.png", "flickr/deep/b.jfif", "own.jpg"]
    assert [source[index].shape for index in range(3)] == [(16, 16, 3)] * 3


def test_training_takes_every_picture_that_sampling_takes(tmp_path):
    for suffix in inputs.READABLE_SUFFIXES:
        (tmp_path / f"picture{suffix.upper()}").touch()
    assert picture_files(tmp_path) == [found.path.name for found in inputs.find([tmp_path]).pictures]


def test_a_link_that_leads_nowhere_is_named(tmp_path, capsys):
    (tmp_path / "picture.png").touch()
    (tmp_path / "link.png").symlink_to("nowhere.png")
    assert picture_files(tmp_path) == ["picture.png"]
    assert capsys.readouterr().err == f"left out: {tmp_path / 'link.png'}: a link that leads nowhere\n"


@pytest.mark.parametrize(
    "info",
    [
        {"features": {"image": {"_type": "Image"}}, "splits": {"train": {}}, "version": {"version_str": "1.0.0"}},
        {"name": "photos", "pictures": 3},
        {},
        [{"name": "photos"}],
        "photos",
    ],
    ids=["of datasets", "of another program", "empty", "a list", "a text"],
)
def test_a_foreign_dataset_info_makes_no_set(tmp_path, info):
    write_json(tmp_path / "dataset_info.json", info)
    assert find_set(tmp_path) is None


def test_a_damaged_dataset_info_is_named(tmp_path):
    (tmp_path / "photos" / "1.0.0").mkdir(parents=True)
    (tmp_path / "photos" / "1.0.0" / "dataset_info.json").write_text('{"name": "pho')
    with pytest.raises(InputError, match=r"1\.0\.0/dataset_info\.json: not JSON"):
        find_set(tmp_path)


@pytest.mark.parametrize(("room", "kept"), [(0, 0), (2, 2), (9, 4)])
def test_the_most_recently_used_pictures_are_kept(tmp_path, monkeypatch, room, kept):
    for index in range(4):
        Image.fromarray(picture(8, index)).save(tmp_path / f"{index}.png")
    read, reads = sources.read, []
    monkeypatch.setattr(sources, "read", lambda path: reads.append(path.name) or read(path))
    source = FolderSource(tmp_path, cache_bytes=room * 8 * 8 * 3)
    for index in range(4):
        assert not source[index].flags.writeable
    reads.clear()
    for index in (3, 2, 1, 0):
        np.testing.assert_array_equal(source[index], picture(8, index))
    assert len(reads) == 4 - kept


def test_a_copy_for_another_process_has_no_cache_but_the_same_records(tmp_path):
    for index in range(3):
        Image.fromarray(picture(64, index)).save(tmp_path / f"{index}.png")
    source = FolderSource(tmp_path)
    pictures = [source[index] for index in range(3)]
    data = pickle.dumps(source)
    assert len(data) < 1000
    copy = pickle.loads(data)
    for index in range(3):
        np.testing.assert_array_equal(copy[index], pictures[index])


def test_threads_may_share_a_source(tmp_path):
    for index in range(6):
        Image.fromarray(picture(16, index)).save(tmp_path / f"{index}.png")
    source = FolderSource(tmp_path, cache_bytes=2 * 16 * 16 * 3)
    order = np.random.default_rng(0).integers(0, 6, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        for index, image in zip(order, pool.map(source.__getitem__, order), strict=True):
            np.testing.assert_array_equal(image, picture(16, index))


def test_a_record_is_found_in_its_part_and_parts_may_be_empty():
    assert [find_part([0, 2, 2, 5], index) for index in (0, 1, 2, 4, -1)] == [(0, 0), (0, 1), (2, 0), (2, 2), (2, 2)]
    with pytest.raises(IndexError):
        find_part([0, 2], 2)


def test_joined_sources_follow_each_other():
    joined = Joined(["ab", "", "cde"])
    assert "".join(joined) == "abcde"
    assert joined.bounds == [0, 2, 2, 5]
    assert joined[-1] == "e"
    with pytest.raises(IndexError):
        joined[5]


class Damaged(list):
    """A source of its own record numbers, of which some cannot be read."""

    def __init__(self, size: int, damaged: set[int]):
        super().__init__(range(size))
        self.damaged = damaged

    def __getitem__(self, index):
        if index in self.damaged:
            raise InputError(f"record {index} is damaged")
        return super().__getitem__(index)


def test_a_damaged_record_is_named_and_replaced_by_a_distant_one(capsys):
    source = Damaged(100, {10, 11, 72})
    assert read_or_replace(source, 9) == (9, 9, 0)
    assert capsys.readouterr().err == ""
    number, record, skipped = read_or_replace(source, 11)
    assert number == record
    assert skipped == 1
    assert 30 < number - 11 < 70
    assert capsys.readouterr().err == "left out: record 11 is damaged\n"
    assert read_or_replace(source, 11) == (number, record, skipped)


@pytest.mark.parametrize("size", range(1, 13))
def test_any_record_that_can_be_read_is_found_in_a_small_set(size):
    for whole in range(size):
        source = Damaged(size, set(range(size)) - {whole})
        assert {read_or_replace(source, index)[0] for index in range(size)} == {whole}


def test_a_set_that_is_damaged_as_a_whole_is_given_up():
    with pytest.raises(InputError, match=r"16 records in a row cannot be read; the last one: record .* is damaged"):
        read_or_replace(Damaged(1000, set(range(1000))), 5)
