"""The guard on a run's numbers: which skipped updates end it."""

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


def test_it_says_beforehand_that_the_next_step_may_end_the_run(tmp_path):
    guard, said = Guard(3, tmp_path), []
    for step, skipped in enumerate((0.0, 1.0, 1.0, 0.0)):
        check(guard, step, skipped)
        said.append(guard.next_may_end)
    assert said == [False, False, True, False]
    assert Guard(1, tmp_path).next_may_end
