"""A folder has one owner: living ones are named, dead ones do not block."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cassr_jax import locks
from cassr_jax.errors import InputError
from cassr_jax.files import read_json, write_json
from cassr_jax.locks import NAME, Owner, claimed, taking_turns

HOLD = """
import sys
from pathlib import Path
from cassr_jax.locks import claimed
with claimed(Path(sys.argv[1]), "train.py"):
    print("mine", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen:
    """Another process that owns the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def left_by(folder: Path, host: str, process: int) -> Path:
    write_json(folder / NAME, Owner("train.py", process, host, "2020-01-01 00:00:00 UTC").__dict__)
    return folder


def test_a_living_owner_is_named_and_a_killed_one_does_not_block(tmp_path):
    folder = tmp_path / "run"
    with hold(folder) as process:
        expected = rf"run: in use by train\.py, process {process.pid} on {socket.gethostname()} since 2.* UTC; expected"
        own(folder, expected)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read_json(folder / NAME)["process"] == process.pid
    with claimed(folder, "again"):
        assert read_json(folder / NAME)["program"] == "again"


def own_and_fail(folder: Path) -> None:
    with claimed(folder, "train.py"):
        own(folder, f"in use by train.py, process {os.getpid()}")
        raise ZeroDivisionError


def own(folder: Path, refused: str) -> None:
    with pytest.raises(InputError, match=refused), claimed(folder, "train.py"):
        pass


def test_a_folder_is_free_and_clean_after_its_owner_even_if_that_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            own_and_fail(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_what_another_machine_left_is_named_once(tmp_path, capsys):
    with claimed(left_by(tmp_path, "elsewhere", 7), "train.py"):
        pass
    assert capsys.readouterr().err == (
        f"{tmp_path}: taken over from train.py, process 7 on elsewhere since 2020-01-01 00:00:00 UTC, "
        "which left no lock\n"
    )


def test_without_locks_of_the_file_system_the_file_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with claimed(left_by(tmp_path, socket.gethostname(), ended.pid), "train.py"):
        assert read_json(tmp_path / NAME)["process"] == os.getpid()
    for host, process in ((socket.gethostname(), os.getppid()), ("elsewhere", 1)):
        left_by(tmp_path, host, process)
        own(tmp_path, rf"process {process} on {host}.*, or delete .*\.lock if that process has ended")
        assert read_json(tmp_path / NAME)["host"] == host


def test_another_process_with_the_number_of_a_dead_one_is_not_it(monkeypatch, tmp_path):
    """Numbers are given out again, above all after the machine has started anew."""
    living = Owner.this("train.py")
    assert living.may_live()
    boot, start = (living.began or "unknown 0").split()
    for began in (f"another-boot {start}", f"{boot} {int(start) + 1}"):
        dead = replace(living, began=began)
        assert not dead.may_live()
        assert not dead.same_process(living)
    monkeypatch.setattr(locks, "PROC", tmp_path)  # as on a system that does not say
    assert Owner.this("train.py").began is None
    assert living.may_live()
    assert living.same_process(Owner.this("train.py"))


OWNER = {"program": "train.py", "host": socket.gethostname(), "started": ""}
DAMAGED = [json.dumps(OWNER | {"process": process}) for process in ("abc", 2**70, -1)]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": 1}', *DAMAGED])
def test_a_damaged_lock_file_does_not_block(tmp_path, monkeypatch, content):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / NAME).write_text(content)
    with claimed(tmp_path, "train.py"):
        assert read_json(tmp_path / NAME)["process"] == os.getpid()


def test_a_disk_too_full_for_the_owners_name_leaves_no_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        own(tmp_path, r"\.lock: cannot be written \(No space left on device\)")
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path, "train.py"):
        assert read_json(tmp_path / NAME)["process"] == os.getpid()


def test_an_address_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("gs://bucket/run", Path("gs://bucket/run")):
        own(given, r"the folder is gs:/+bucket/run, an address, expected a path on this machine")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    own(tmp_path / "file" / "run", r"file/run: cannot be made, since .*/file is a file; expected a folder")


def test_turns_lose_no_entry(tmp_path):
    """Every one of many reads what there is, and adds to it."""
    file = tmp_path / "entries.json"

    def add(number: int) -> None:
        with taking_turns(file):
            entries = read_json(file, list) if file.exists() else []
            file.write_text(json.dumps([*entries, number]))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(200)))
    assert sorted(read_json(file, list)) == list(range(200))
    assert [path.name for path in tmp_path.iterdir()] == ["entries.json"]
