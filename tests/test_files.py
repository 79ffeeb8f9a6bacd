"""Damaged JSON is one sentence, links to folders are followed once, addresses are no paths."""

import json
import os
from pathlib import Path

import pytest

from cassr_jax.errors import InputError
from cassr_jax.files import (
    JSON_DEPTH,
    check_folder,
    check_local,
    exists,
    files_below,
    is_file,
    is_folder,
    parse_json,
    read_json,
    replaced,
    replaced_folder,
    same_place,
    write_json,
)
from tests.permissions import as_anybody

LONG = "a" * 300  # more than a name may have


def nested(depth: int) -> str:
    return '{"a": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON (Expecting value"),
        (b'{"step": 1', "not JSON (Expecting ',' delimiter"),
        (b"\xff\xfe\x00", "not JSON ("),
        (b"\x00" * 20, "not JSON ("),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not JSON (Exceeds the limit"),
        (b"[1, 2]", "holds list '[1, 2]', expected an object"),
        (b"null", "holds NoneType 'None', expected an object"),
        (nested(JSON_DEPTH + 1).encode(), "nested too deep, expected at most 100 levels"),
        (nested(100_000).encode(), "nested too deep, expected at most 100 levels"),
    ],
    ids=["empty", "cut", "no text", "zeros", "number", "list", "null", "deep", "very deep"],
)
def test_damaged_json_is_one_sentence(tmp_path, content, message):
    file = tmp_path / "state.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(file)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


def test_json_that_is_read_is_what_was_written(tmp_path):
    data = {"a": [1, None, "ü"], "b": {"c": 0.5}}
    write_json(tmp_path / "made" / "x.json", data)
    assert read_json(tmp_path / "made" / "x.json") == data
    assert parse_json(json.dumps([data]), "text", list) == [data]
    assert parse_json(nested(JSON_DEPTH), "text")
    with pytest.raises(InputError, match=r"none\.json: cannot be read \(No such file"):
        read_json(tmp_path / "none.json")


def test_links_to_folders_are_followed_and_end(tmp_path):
    sets, train = tmp_path / "sets", tmp_path / "train"
    for name in ("a/1.png", "a/deep/2.png", "b/3.png", "b/.hidden.png", "b/.folder/4.png"):
        (sets / name).parent.mkdir(parents=True, exist_ok=True)
        (sets / name).touch()
    train.mkdir()
    (train / "0.png").symlink_to(sets / "a/1.png")
    (train / "gone.png").symlink_to(sets / "gone.png")
    (train / "self.png").symlink_to("self.png")
    (train / "a").symlink_to(sets / "a")
    (train / "b").symlink_to(sets / "b")
    (train / "z").symlink_to(sets)  # both once more
    (sets / "a" / "deep" / "up").symlink_to(train)
    (sets / "b" / "back").symlink_to("..")
    found = [path.relative_to(train).as_posix() for path in files_below(train)]
    assert found == ["0.png", "a/1.png", "a/deep/2.png", "b/3.png"]
    assert next(path.name for path in files_below(sets, exclude=sets / "a")) == "3.png"


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    data = {"a": [1.5, float("nan"), (float("inf"), 2)], "b": {"c": -float("inf"), "d": "NaN"}}
    write_json(tmp_path / "x.json", data)
    assert read_json(tmp_path / "x.json") == {"a": [1.5, None, [None, 2]], "b": {"c": None, "d": "NaN"}}
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_replaced_is_left(tmp_path, monkeypatch, error):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "old").write_text("old")
    rename = os.rename

    def fail(source, target):
        if Path(target) == folder and not (Path(source) / "old").exists():
            raise error
        rename(source, target)

    monkeypatch.setattr("cassr_jax.files.os.rename", fail)
    with pytest.raises((InputError, KeyboardInterrupt)), replaced_folder(folder) as new:
        (new / "new").write_text("new")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["kept", "kept/old"]
    monkeypatch.undo()
    with replaced_folder(folder) as new:
        (new / "new").write_text("new")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["kept", "kept/new"]


def test_a_pipe_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replaced(pipe) as file:
            file.write(b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_writers_with_the_same_number_have_files_of_their_own(tmp_path):
    """Two containers that share a folder may each run process 7."""
    first, second = (tmp_path / f"{'x' * 60}{number}.png" for number in (1, 2))
    with replaced(first) as one, replaced(second) as other, replaced(second) as last:
        one.write(b"first")
        other.write(b"second")
        last.write(b"second")
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert sorted(tmp_path.iterdir()) == [first, second]


@pytest.fixture
def open_folder(tmp_path, monkeypatch):
    """The working directory, a folder that everybody may enter."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("mode", "reason"), [(0, "closed: cannot be read (Permission denied)"), (0o644, "closed: cannot be entered, ")]
)
def test_a_folder_that_cannot_be_read_is_named_once(open_folder, mode, reason):
    for name in ("a.png", "closed/b.png", "closed/c.png", "closed/deep/d.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("closed").chmod(mode)
    told: list[str] = []
    with as_anybody():
        with pytest.raises(InputError) as error:
            list(files_below(Path()))
        found = list(files_below(Path(), unreadable=lambda reason: told.append(str(reason))))
    assert found == [Path("a.png")]
    assert told == [str(error.value)]
    assert reason in told[0]


def test_a_link_that_cannot_be_followed_is_named(tmp_path):
    (tmp_path / "a.png").symlink_to(LONG)
    (tmp_path / "b.png").touch()
    told: list[InputError] = []
    assert list(files_below(tmp_path, unreadable=told.append)) == [tmp_path / "b.png"]
    assert [str(reason) for reason in told] == [f"{tmp_path / 'a.png'}: cannot be read (File name too long)"]


@pytest.mark.parametrize("look", [exists, is_file, is_folder, check_folder])
def test_what_nobody_can_tell_of_a_path_is_one_sentence(open_folder, look):
    Path("closed").mkdir(mode=0o644)
    with as_anybody():
        for path, reason in ((Path(LONG), "File name too long"), (Path("closed/x"), "Permission denied")):
            with pytest.raises(InputError) as error:
                look(path)
            assert str(error.value) == f"{path}: cannot be read ({reason})"


def test_a_path_is_looked_up_through_its_links(tmp_path):
    (tmp_path / "file").touch()
    for name, target in (("link", "file"), ("folder", "."), ("gone", "nowhere"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
    found = {path.name: (exists(path), is_file(path), is_folder(path)) for path in tmp_path.iterdir()}
    assert found["file"] == found["link"] == (True, True, False)
    assert found["folder"] == (True, False, True)
    assert found["gone"] == found["loop"] == (False, False, False)
    assert not exists(tmp_path / "file" / "x")
    assert not exists("a\0b")
    assert same_place(tmp_path / "folder" / "new", tmp_path / "new")
    assert not same_place(tmp_path / "loop", tmp_path)


@pytest.mark.parametrize("path", ["gs://bucket/run", "gs:/bucket/run", "s3://b", "https://x.org/a", "hf+x.y-z:/a"])
def test_an_address_is_no_path(path):
    with pytest.raises(InputError, match=r"--workdir is .*, an address, expected a path on this machine"):
        check_local(path, "--workdir")


def test_an_empty_path_is_refused():
    with pytest.raises(InputError, match=r"--workdir is '', expected a path; \. is the working folder"):
        check_local("", "--workdir")


@pytest.mark.parametrize("path", ["runs/a", "/runs/a", "a:b", "C:/runs", "./gs:/x", ".", "runs/gs://x"])
def test_a_path_is_no_address(path):
    check_local(path, "--workdir")
