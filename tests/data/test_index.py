"""The index of a folder: what has not changed is not looked at again, and a damaged index is made anew."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cassr_jax.data import contents as module
from cassr_jax.data import crops
from cassr_jax.data.config import DataConfig
from cassr_jax.data.contents import fingerprint_sets
from cassr_jax.data.crops import find_all_windows, find_folders_windows
from cassr_jax.data.index import INDICES, Kind, indexed
from cassr_jax.data.pipeline import open_records
from cassr_jax.data.sources import FolderSource
from cassr_jax.errors import InputError
from tests.training.runs import write_pictures

TEXTS = Kind[str]("texts", lambda texts: {"texts": np.array(texts)}, lambda arrays: arrays["texts"].tolist())


@pytest.fixture
def indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(INDICES, str(tmp_path / "indices"))
    return tmp_path / "indices"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    for name in ("a", "b", "\udcff", "c"):  # a name need not be valid text
        (tmp_path / "files" / name).write_text(name.encode(errors="surrogateescape").hex())
    return tmp_path / "files"


@pytest.fixture
def look(folder: Path) -> Callable[[Sequence[str]], tuple[list[str | None], list[str]]]:
    """(what is known of some files, those that were read for it)."""

    def look(keys: Sequence[str]) -> tuple[list[str | None], list[str]]:
        read: list[str] = []

        def find(keys: Sequence[str]) -> list[str | None]:
            read.extend(keys)
            texts = [(folder / key).read_text() for key in keys]
            return [None if text == "broken" else text for text in texts]

        return indexed(folder, keys, TEXTS, find), read

    return look


def test_only_what_is_new_or_has_changed_is_looked_at(indices: Path, folder: Path, look):
    keys = ["a", "b", "\udcff"]
    assert look(keys) == (["61", "62", "ff"], keys)
    assert look(keys) == (["61", "62", "ff"], [])
    before = (folder / "b").stat()
    (folder / "b").write_text("xx")  # as long as before, and said to be as old
    os.utime(folder / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(["c", *keys]) == (["63", "61", "xx", "ff"], ["c", "b"])
    assert look(["b"]) == (["xx"], [])
    assert look(keys) == (["61", "xx", "ff"], ["a", "\udcff"])  # the index holds what the folder held


def test_what_could_not_be_found_is_tried_again(indices: Path, folder: Path, look):
    (folder / "a").write_text("broken")
    assert look(["a", "b"]) == ([None, "62"], ["a", "b"])
    assert look(["a", "b"]) == ([None, "62"], ["a"])


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: b"nothing", lambda data: data[: len(data) // 2], lambda data: data[::-1]],
)
def test_a_damaged_index_is_made_anew(indices: Path, look, damage):
    look(["a", "b"])
    (file,) = indices.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert look(["a", "b"]) == (["61", "62"], ["a", "b"])
    assert look(["a", "b"]) == (["61", "62"], [])


def test_where_nothing_can_be_kept_everything_is_looked_at(
    indices: Path, look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    indices.write_text("a file in the way")
    assert look(["a"]) == look(["a"]) == (["61"], ["a"])
    monkeypatch.setenv(INDICES, "")
    assert look(["a"]) == look(["a"]) == (["61"], ["a"])


def test_a_folder_of_pictures_is_decoded_once(indices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pictures = write_pictures(tmp_path / "pictures", 3)
    config = DataConfig(str(pictures), crop_size=32)
    first, contents = open_records(config), fingerprint_sets([pictures])
    with monkeypatch.context() as patch:
        patch.setattr(crops, "find_windows", lambda *_: pytest.fail("a picture was decoded"))
        patch.setattr(module, "_fingerprint", lambda *_: pytest.fail("a file was read"))
        again = open_records(config)
        assert fingerprint_sets([pictures]) == contents
    np.testing.assert_array_equal(again(0)[5]["hr"], first(0)[5]["hr"])
    Image.new("RGB", (48, 48), "grey").save(pictures / "2.png")
    source = FolderSource(pictures)
    found, fresh = find_folders_windows(source, source, 32, threads=1), find_all_windows(source, 32)
    assert [len(windows.corners) > 0 for windows in found if windows] == [True, True, False]
    for one, other in zip(found, fresh, strict=True):
        assert one
        assert other
        np.testing.assert_array_equal(one.corners, other.corners)
    (pictures / "0.png").write_bytes((pictures / "1.png").read_bytes())
    assert fingerprint_sets([pictures]) != contents
    (pictures / "0.png").unlink()
    for file in pictures.iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of its pictures can be read"):
        open_records(config)
