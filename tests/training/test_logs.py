"""The logs of a run: what TensorBoard finds in them, and that a full disk does not end a run for their sake."""

import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from cassr_jax.errors import InputError
from cassr_jax.training import logs as module
from cassr_jax.training.logs import Logs, Meter

FULL = Path("/dev/full")  # where Linux has a disk that is always full
PICTURE = np.full((8, 12, 3), 200, np.uint8)


def events(workdir: Path) -> list[tuple[int, str]]:
    """Step and name of all that TensorBoard's file holds: records between a length, two checksums and each other."""
    (file,) = (workdir / "tensorboard").iterdir()
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found += [(event.step, value.tag) for value in event.summary.value]
        data = data[16 + length :]
    return found


def test_each_step_is_a_line_and_an_event(tmp_path):
    logs = Logs(tmp_path)
    logs.write(2, {"loss": 0.5, "l1": 1.0})
    logs.show(2, PICTURE)
    expected = [(2, "loss"), (2, "l1"), (2, "preview")]
    assert events(tmp_path) == expected  # before anything is closed: a run may be killed
    logs.write(4, {"loss": 0.25})
    logs.close()
    assert events(tmp_path) == [*expected, (4, "loss")]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "loss": 0.5, "l1": 1.0}, {"step": 4, "loss": 0.25}]
    assert [file.name for file in (tmp_path / "previews").iterdir()] == ["00000002.png"]


@pytest.mark.skipif(not FULL.exists(), reason="a system without /dev/full")
def test_a_full_disk_ends_no_run_for_them(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").symlink_to(FULL)
    (tmp_path / "previews").write_text("in the way")
    logs = Logs(tmp_path)
    for step in range(100):
        logs.write(step, {"loss": 0.5})
    logs.show(100, PICTURE)
    assert events(tmp_path) == [*((step, "loss") for step in range(100)), (100, "preview")]
    logs.close()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 3  # one for each time that another file is met
    assert "cannot be written ([Errno 28] No space left on device); training goes on" in warnings[0]
    assert "previews" in warnings[1]


def test_events_that_cannot_be_written_make_nobody_wait(tmp_path, capsys, monkeypatch):
    def flush(events):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logs = Logs(tmp_path)
    monkeypatch.setattr(EventsWriter, "flush", flush)
    for step in range(100):  # tensorboardX's own writer would wait for ever
        logs.write(step, {"loss": 0.5})
    monkeypatch.undo()
    logs.close()
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 100


def test_a_pause_counts_for_no_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    meter = Meter(4, "cpu")
    meter.begin(0.0)
    for _ in range(2):
        now[0] += 3
        meter.add({"loss": 1.0, "skipped": 0.0})
    with meter.paused():
        now[0] += 100
    assert meter.summary()["seconds_per_step"] == 3


def test_logs_that_cannot_be_opened_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written \(Is a directory\)"):
        Logs(tmp_path)
