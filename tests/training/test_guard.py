"""The guard on a run's numbers: which skipped updates end it."""

import errno
import os

import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.training.guard import Guard

BATCH = {"record": np.array([3, 5])}
PARAMS = {"net.w": jnp.ones(2)}


def check(guard: Guard, step: int, skipped: float) -> None:
    guard.check(step, BATCH, {"skipped": skipped}, PARAMS)


def test_only_updates_skipped_in_a_row_end_a_run(tmp_path):
    guard = Guard(2, tmp_path)
    for step, skipped in enumerate((1.0, 0.0, 1.0, 0.0, 0.0, 1.0)):
        check(guard, step, skipped)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"step 6: .* was not finite 2 times in a row; records \[3, 5\]"):
        check(guard, 6, 1.0)


def test_the_message_says_what_is_kept_and_where(tmp_path):
    with pytest.raises(InputError, match=r"; batch, metrics, parameters are in .*step_4_process_0\.npz$"):
        check(Guard(1, tmp_path / "nonfinite"), 4, 1.0)
    with pytest.raises(InputError, match=r"records drawn on the device; metrics, parameters are in .*step_5_"):
        Guard(1, tmp_path / "nonfinite").check(5, {}, {"skipped": 1.0}, PARAMS)
    with np.load(tmp_path / "nonfinite" / "step_4_process_0.npz") as dump:
        assert sorted(dump) == ["batch/record", "metrics", "params/net.w"]


def test_a_dump_that_cannot_be_written_hides_nothing(tmp_path, monkeypatch):
    def savez(stream, **arrays):
        stream.write(b"part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", savez)
    message = r"step 6: .*; records \[3, 5\]; nothing is kept for the diagnosis: .*npz: cannot be written \(No sp"
    with pytest.raises(InputError, match=message):
        check(Guard(1, tmp_path), 6, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_it_says_beforehand_that_the_next_step_may_end_the_run(tmp_path):
    guard, said = Guard(3, tmp_path), []
    for step, skipped in enumerate((0.0, 1.0, 1.0, 0.0)):
        check(guard, step, skipped)
        said.append(guard.next_may_end)
    assert said == [False, False, True, False]
    assert Guard(1, tmp_path).next_may_end
