from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.errors import InputError
from cassr_jax.imaging.inputs import _candidates, _distinct, count_suffixes
from cassr_jax.imaging.inputs import find as find_all


def find(*arguments, **options):
    return find_all(*arguments, **options).pictures


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a.png", "x/a.png", "y/a.png", "b.PNG", "notes.txt", "Thumbs.db", ".hidden.png", "._a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"content is not looked at")
    return tmp_path


def stems(found, root):
    return {item.path.relative_to(root).as_posix(): item.stem for item in found}


def test_folder_with_sub_folders(folder):
    assert stems(find([folder]), folder) == {
        "a.jpg": "a_jpg",
        "a.png": "a_png",
        "b.PNG": "b",
        "x/a.png": "x/a",
        "y/a.png": "y/a",
    }


def test_folders_with_the_same_names_inside(folder):
    assert stems(find([folder / "x", folder / "y"]), folder) == {"x/a.png": "x/a", "y/a.png": "y/a"}


def test_files_with_the_same_name(folder):
    assert stems(find([folder / "x" / "a.png", folder / "y" / "a.png"]), folder) == {"x/a.png": "x/a", "y/a.png": "y/a"}


def test_same_folder_names_are_numbered(tmp_path):
    for name in ("1/p", "2/p", "3/p"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").touch()
    found = find([tmp_path / "1/p", tmp_path / "2/p", tmp_path / "3/p"])
    assert [item.stem for item in found] == ["p/a_png", "p/a_png_2", "p/a_png_3"]


def test_one_file_given_twice_counts_once(folder):
    assert len(find([folder / "a.jpg", folder / "a.jpg", folder])) == 5


def test_output_folder_is_not_searched(folder):
    assert [item.stem for item in find([folder], exclude=folder / "x")] == ["a_jpg", "a_png", "b", "y/a"]
    assert [item.stem for item in find([folder / "x"], exclude=folder / "x")] == ["a"]


def test_links_are_told_apart_by_the_folders_that_hold_them(tmp_path):
    """Their targets may be named after a hash, all in one folder."""
    (tmp_path / "blobs").mkdir()
    for name in ("one", "two"):
        (tmp_path / "blobs" / f"{name}0f1e2d").touch()
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").symlink_to(tmp_path / "blobs" / f"{name}0f1e2d")
    found = find([tmp_path / "one" / "a.png", tmp_path / "two" / "a.png"])
    assert stems(found, tmp_path) == {"one/a.png": "one/a", "two/a.png": "two/a"}


def test_a_named_file_is_taken_whatever_its_suffix(folder):
    assert [item.stem for item in find([folder / "notes.txt", folder / "Thumbs.db"])] == ["notes", "Thumbs"]


def test_name_with_several_dots(tmp_path):
    (tmp_path / "v1.2.beach.png").touch()
    assert find([tmp_path])[0].stem == "v1.2.beach"


def test_link_to_a_parent_does_not_loop(folder):
    (folder / "x" / "loop").symlink_to(folder, target_is_directory=True)
    assert len(find([folder])) == 5


def test_pictures_in_other_formats_are_told(folder):
    for name in ("c.DNG", "d.psd", "x/d.dng"):
        (folder / name).touch()
    found = find_all([folder])
    assert count_suffixes(found.passed_over) == "2 .dng, 1 .psd"
    assert len(found.pictures) == 5
    for item in found.pictures:
        item.path.unlink()
    with pytest.raises(InputError, match=r"no picture in this folder .*passed over: 2 \.dng, 1 \.psd"):
        find([folder])


def test_links_that_lead_nowhere_are_told(folder):
    for name in ("lost.png", "x/lost", ".lost.png"):
        (folder / name).symlink_to("none")
    found = find_all([folder])
    assert [path.relative_to(folder).as_posix() for path in found.broken] == ["lost.png", "x/lost"]
    assert len(found.pictures) == 5
    for item in found.pictures:
        item.path.unlink()
    with pytest.raises(InputError, match=r"no picture in this folder .*passed over: 2 broken links"):
        find([folder])


def test_the_root_folder_gives_no_absolute_name():
    candidates = _candidates(Path("a.jpg"), "", flat=False)
    assert [name for name in candidates if Path(name).is_absolute() or ".." in Path(name).parts] == []


def test_the_empty_text_is_not_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=r"an input is '', expected a path; \. is the working folder"):
        find([""])


def test_linked_folders_are_searched(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "z.png").touch()
    (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    assert "link/z" in [item.stem for item in find([folder])]


def test_nothing_found_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        find([tmp_path / "none"])
    with pytest.raises(InputError, match="no picture in this folder"):
        find([tmp_path])
    with pytest.raises(InputError, match="no input"):
        find([])


NAMES = st.sampled_from(["a", "A", "a_png", "a_jpg", "b"])


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, st.sampled_from([".png", ".jpg"]), st.sampled_from(["x", "y"])), max_size=8))
def test_stems_are_always_distinct_and_fixed(files):
    candidates = [
        [name, name + suffix.replace(".", "_"), f"{folder}/{name}", f"{folder}/{name}{suffix.replace('.', '_')}"]
        for name, suffix, folder in files
    ]
    result = _distinct(candidates)
    assert len({stem.casefold() for stem in result}) == len(files)
    assert result == _distinct(candidates)
    assert all(not Path(stem).is_absolute() for stem in result)
