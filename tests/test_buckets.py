"""Folders in a bucket: who owns one, and how files come into it."""

import shutil
import threading
from pathlib import Path

import fsspec
import pytest

from cassr_jax import buckets
from cassr_jax.buckets import Copied, folder_at, in_bucket, leased, move
from cassr_jax.errors import InputError

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
