"""Folders in a bucket: who owns one, and how files come into it."""

import shutil
import threading
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest

from cassr_jax import buckets
from cassr_jax.buckets import Copied, fetched, folder_at, in_bucket, leased, move
from cassr_jax.data.config import DataConfig
from cassr_jax.data.pipeline import batches
from cassr_jax.errors import InputError
from cassr_jax.files import files_below
from cassr_jax.imaging import io

pytest.importorskip("gcsfs")

from tests import bucket


@pytest.fixture(scope="module")
def served():
    with bucket.served() as variables, pytest.MonkeyPatch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        yield


@pytest.fixture
def folder(served, request):
    return folder_at(f"gs://{bucket.NAME}/{request.node.name}")


def test_a_folder_is_on_this_machine_or_in_a_bucket(tmp_path):
    assert folder_at(str(tmp_path)) == tmp_path
    assert not in_bucket(folder_at(str(tmp_path)))
    assert in_bucket(folder_at("gs://b/run"))
    assert str(folder_at("gs://b/run") / "export") == "gs://b/run/export"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gs://", "gs://: names no bucket, expected gs://BUCKET/FOLDER"),
        ("gs:///run", "gs:///run: names no bucket, expected gs://BUCKET/FOLDER"),
        ("s3://b/run", "it is s3://b/run, an address, expected a path on this machine; mount or copy it first"),
        ("gs:/b/run", "it is gs:/b/run, an address, expected a path on this machine; mount or copy it first"),
    ],
)
def test_other_addresses_are_refused(text, said):
    with pytest.raises(InputError) as error:
        folder_at(text)
    assert str(error.value) == said


def test_a_bucket_without_its_package_is_one_sentence(monkeypatch):
    def missing(protocol):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(InputError) as error:
        folder_at("gs://b/run")
    assert str(error.value) == 'gs://b/run: a bucket, expected gcsfs to be installed (pip install -e ".[bucket]")'


def test_a_folder_is_owned_until_the_block_ends(folder, monkeypatch):
    monkeypatch.setattr(buckets, "LEASE", 1.0)
    with leased(folder, "first"):
        with pytest.raises(InputError, match=r"in use by first, process \d+ on .*; expected a folder that"):
            leased(folder, "second").__enter__()
        assert (folder / ".lock").read_text().startswith("first, process ")
    assert list(folder.glob("*")) == []


def test_what_a_killed_run_has_left_is_taken_over(folder, monkeypatch):
    monkeypatch.setattr(buckets, "LEASE", 0.2)
    (folder / ".lock").write_text("first, process 7 on a machine that is gone\n12\n")
    with leased(folder, "second"):
        assert (folder / ".lock").read_text().startswith("second, ")


def test_who_has_lost_the_lease_ends(folder, monkeypatch, capsys):
    ended = threading.Event()
    monkeypatch.setattr(buckets, "LEASE", 0.2)
    monkeypatch.setattr(buckets.os, "_exit", lambda code: (ended.set(), threading.current_thread().name, exit(code)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading, "excepthook", lambda *_: None)
        with leased(folder, "first"):
            (folder / ".lock").write_text("second, process 8 on another\n0\n")
            assert ended.wait(20)
    assert "taken over by second, process 8 on another, which saw no sign of life here" in capsys.readouterr().err


def test_what_has_changed_is_sent(folder):
    (folder / "metrics.jsonl").write_text("1\n")
    copied = Copied(folder)
    copied.fetch("metrics.jsonl", "absent.json")
    assert [path.name for path in copied.local.iterdir()] == ["metrics.jsonl"]
    (folder / "metrics.jsonl").write_text("not sent again\n")
    (copied.local / "previews").mkdir()
    (copied.local / "previews" / "1.png").write_bytes(b"\x00" * 5)
    (copied.local / "big").write_text("later")
    copied.send(lambda name: name.name != "big")
    assert (folder / "metrics.jsonl").read_text() == "not sent again\n"
    assert (folder / "previews" / "1.png").read_bytes() == b"\x00" * 5
    assert sorted(path.name for path in folder.glob("*")) == ["metrics.jsonl", "previews"]
    with (copied.local / "metrics.jsonl").open("a") as file:
        file.write("2\n")
    copied.send()
    assert (folder / "metrics.jsonl").read_text() == "1\n2\n"
    assert (folder / "big").read_text() == "later"
    copied.close()
    assert not copied.local.exists()


def test_a_description_comes_after_what_it_describes(folder, monkeypatch):
    (folder / "cassr.json").write_text("of the old weights")
    copied = Copied(folder)
    for name in ("a.json", "cassr.json", "unet.safetensors"):
        (copied.local / name).write_text("new")
    copied.send(lambda name: name.name != "cassr.json", last=("cassr.json",))  # as if interrupted before its end
    assert sorted(path.name for path in folder.glob("*")) == ["a.json", "unet.safetensors"]
    (copied.local / "unet.safetensors").write_text("newer")
    sent = []
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, *_: sent.append(Path(source.name).name))
    copied.send(last=("cassr.json",))
    assert sent == ["unet.safetensors", "cassr.json"]
    copied.close()


def test_a_folder_is_moved_with_all_that_is_in_it(folder):
    (folder / "step_2" / "state" / "a").write_text("2")
    move(folder / "step_2", folder / "set_aside" / "step_2")
    assert [path.name for path in folder.glob("*")] == ["set_aside"]
    assert (folder / "set_aside" / "step_2" / "state" / "a").read_text() == "2"


def test_a_bucket_that_is_not_there_is_one_sentence(served):
    with pytest.raises(InputError, match=r"^gs://nowhere/run: cannot be written \(.+\)$"):
        leased(folder_at("gs://nowhere/run"), "first").__enter__()


@pytest.fixture
def data(folder, tmp_path, monkeypatch):
    """A folder of three files in the bucket, of which one is hidden, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fetched.cache_clear()
    for name in ("a.png", "below/b.png", ".hidden/c.png"):
        (folder / name).write_bytes(name.encode())
    return folder


def held(local: Path) -> dict[str, bytes]:
    return {path.relative_to(local).as_posix(): path.read_bytes() for path in files_below(local)}


def test_data_are_copied_here_and_then_what_has_changed(data, monkeypatch):
    local = fetched(str(data))
    assert held(local) == {"a.png": b"a.png", "below/b.png": b"below/b.png"}
    written: list[str] = []
    plain = buckets.replaced
    monkeypatch.setattr(buckets, "replaced", lambda path: written.append(path.name) or plain(path))
    fetched.cache_clear()
    assert fetched(str(data)) == local
    assert written == []
    (data / "a.png").write_bytes(b"newer")  # as long as before
    (data / "below/b.png").unlink()
    (data / "d.png").write_bytes(b"more")
    fetched.cache_clear()
    assert held(fetched(str(data))) == {"a.png": b"newer", "d.png": b"more"}
    assert len(written) == 2
    assert held(local) == {"a.png": b"a.png", "below/b.png": b"below/b.png"}  # which a run may be reading


def test_a_copy_that_was_interrupted_or_damaged_is_finished(data, monkeypatch):
    read, plain = [], shutil.copyfileobj

    def copy(source, target, size):
        read.append(source.path)
        if len(read) == 2:
            raise OSError("gone")
        plain(source, target, size)

    monkeypatch.setattr(buckets.shutil, "copyfileobj", copy)
    monkeypatch.setattr(buckets, "_AT_ONCE", 1)
    with pytest.raises(InputError, match="gone"):
        fetched(str(data))
    local = fetched(str(data))
    assert [name.rpartition("/")[2] for name in read] == ["a.png", "b.png", "b.png"]  # the first is not copied again
    for damage in (Path.unlink, lambda path: path.write_bytes(b"a.pn")):
        damage(local / "a.png")
        fetched.cache_clear()
        assert held(fetched(str(data))) == {"a.png": b"a.png", "below/b.png": b"below/b.png"}


def test_data_that_are_not_there_or_do_not_fit_are_one_sentence(data, monkeypatch):
    with pytest.raises(InputError, match="elsewhere: holds nothing, expected a folder of data"):
        fetched(f"gs://{bucket.NAME}/elsewhere")
    with pytest.raises(InputError, match=r"a\.png: an object, expected a folder of data"):
        fetched(f"{data}/a.png")
    monkeypatch.setattr(buckets.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(InputError, match=r"0\.0 MB are to be copied to .* XDG_CACHE_HOME names another place"):
        fetched(str(data))


@pytest.mark.parametrize("name", ["../outside.png", "below/../../outside.png", "a//b.png"])
def test_an_object_whose_name_leads_out_is_refused(name):
    with pytest.raises(InputError, match="expected names that are paths below it"):
        buckets._is_below(name, "gs://b/data")


def test_a_run_reads_the_pictures_of_a_bucket(data, tmp_path):
    config = DataConfig(f"gs://{bucket.NAME}/photos", crop_size=32, preset="light", num_workers=0)
    rgb = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    io.write(tmp_path / "photo.png", io.Picture(rgb))
    (folder_at(config.path) / "photo.png").write_bytes((tmp_path / "photo.png").read_bytes())
    config.check_apart(tmp_path)  # nothing here lies within a bucket
    (batch,) = islice(batches(config.here(), batch_size=2, seed=0), 1)
    assert batch["hr"].shape == (2, 32, 32, 3)
