"""A checkpoint that is damaged costs the steps since the one before it."""

import json
import math
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassr_jax.errors import InputError
from cassr_jax.training.checkpoint import LOWEST_LOSS, Checkpoints, Criterion
from cassr_jax.training.state import TrainState
from tests.training.runs import assert_same

OPTIMIZER = optax.adam(1e-3)
RUN = {"config": {"stage": "vae"}, "frozen": {}}
ITEMS = ("state", "data", "run")


def state_of(step: int, channels: int = 32) -> TrainState:
    rng = np.random.default_rng(step)
    params = {"vae.a.kernel": jnp.asarray(rng.normal(size=(32, channels)), jnp.float32), "vae.b.bias": jnp.ones(8)}
    return replace(TrainState.create(params, OPTIMIZER), step=jnp.int32(step))


def open_checkpoints(folder: Path) -> closing[Checkpoints]:
    return closing(Checkpoints(folder, 3, 0, RUN))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("saved")
    with open_checkpoints(folder) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(state_of(step), {"examples": 10 * step}, {"loss": 0.5})
    return folder


@pytest.mark.parametrize(
    ("by", "kept"),
    [
        (LOWEST_LOSS, [3, 6]),
        (Criterion("validation/lpips"), [2, 6]),
        (Criterion("validation/psnr_y", high=True), [4, 6]),
    ],
)
def test_the_best_by_a_measure_is_kept_beside_the_newest(tmp_path: Path, by: Criterion, kept: list[int]):
    """Step 3 was not validated, and step 5 measured no number."""
    measured = {2: (0.1, 20.0), 4: (0.2, 24.0), 5: (math.nan, math.nan), 6: (0.3, 22.0)}
    with closing(Checkpoints(tmp_path, 1, 1, RUN, by)) as checkpoints:
        for step, loss in ((2, 0.5), (3, 0.1), (4, 0.4), (5, 0.6), (6, 0.3)):
            lpips, psnr = measured.get(step, (None, None))
            found = {} if lpips is None else {"validation/lpips": lpips, "validation/psnr_y": psnr}
            checkpoints.save(state_of(step), {}, {"loss": loss} | found)
        checkpoints.wait()
        assert sorted(checkpoints.manager.all_steps()) == kept


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def invert(path: Path) -> None:
    """Invert 64 bytes in the middle."""
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 64)
    data[middle] = bytes(255 - byte for byte in data[middle])
    path.write_bytes(data)


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def largest(folder: Path) -> Path:
    """Where the arrays are."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "arrays cut": lambda step: cut(largest(step)),
    "arrays inverted": lambda step: invert(largest(step)),
    "arrays zeroed": lambda step: zero(largest(step)),
    "arrays removed": lambda step: largest(step).unlink(),
    "index cut": lambda step: cut(step / "state" / "manifest.ocdbt"),
    "index removed": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "names cut": lambda step: cut(step / "state" / "_METADATA"),
    "names zeroed": lambda step: zero(step / "state" / "_METADATA"),
    "names removed": lambda step: (step / "state" / "_METADATA").unlink(),
    "metrics cut": lambda step: cut(step / "metrics" / "metrics"),
    "metrics nested": lambda step: (step / "metrics" / "metrics").write_bytes(b"[" * 100_000),
    "position changed": lambda step: replace_text(step / "data" / "metadata", "60", "61"),
    "stage changed": lambda step: replace_text(step / "run" / "metadata", "vae", "vbe"),
    "emptied": empty,
    **{f"{name} cut": lambda step, name=name: cut(step / name / "metadata") for name in ("data", "run")},
    **{f"{name} removed": lambda step, name=name: shutil.rmtree(step / name) for name in ITEMS},
}


@pytest.mark.parametrize("way", DAMAGES)
def test_the_older_checkpoint_is_taken_and_the_damaged_one_set_aside(run, way, capfd):
    newest = run / "checkpoints" / "step_6"
    DAMAGES[way](newest)
    left = sorted(path.relative_to(newest) for path in newest.rglob("*"))
    with open_checkpoints(run) as checkpoints:
        found = checkpoints.restore(state_of(0))
        assert (found.step, found.data, found.run) == (4, {"examples": 40}, RUN)
        assert_same(found.state, state_of(4))
        checkpoints.set_aside_after(4)
        checkpoints.save(state_of(6), {"examples": 60})
    aside = run / "set_aside" / "step_6"
    assert sorted(path.relative_to(aside) for path in aside.rglob("*")) == left
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert f"warning: {newest} is set aside as {aside}" in error
    if way not in ("metrics cut", "metrics nested"):  # which nobody but the list of steps reads
        assert f"warning: {newest.parent}: step 6 is damaged (" in error
        assert not re.search(r"\w+(Error|Exception): |<bound method|\\'", error)
        assert "; the older step 4 is taken, as by --from-step 4" in error
    with open_checkpoints(run) as checkpoints:
        assert checkpoints.restore(state_of(0)).data == {"examples": 60}


def test_an_older_checkpoint_without_checksums_is_read(run):
    file = run / "checkpoints" / "step_6" / "run" / "metadata"
    described = json.loads(file.read_text())
    assert described.pop("checksums").keys() >= {"data", "run", "step", "params/vae.a.kernel"}
    file.write_text(json.dumps(described))
    with open_checkpoints(run) as checkpoints:
        assert_same(checkpoints.restore(state_of(0)).state, state_of(6))


def test_the_array_that_is_not_what_was_saved_is_named(run):
    invert(largest(run / "checkpoints" / "step_6"))
    message = r"step 6 is damaged \((params|ema|opt_state/.*)/vae\.a\.kernel is not what was saved\); expected --from-s"
    with open_checkpoints(run) as checkpoints, pytest.raises(InputError, match=message):
        checkpoints.restore(state_of(0), from_step=6)


def test_an_empty_folder_of_a_later_step_is_no_checkpoint(run, capfd):
    (run / "checkpoints" / "step_9").mkdir()
    for _ in range(2):  # the second one is set aside beside the first
        with open_checkpoints(run) as checkpoints:
            assert checkpoints.restore(state_of(0)).step == 6
            checkpoints.set_aside_after(6)
        (run / "checkpoints" / "step_9").mkdir()
    assert "step 9 is damaged" in capfd.readouterr().err
    assert sorted(path.name for path in (run / "set_aside").iterdir()) == ["step_9", "step_9_2"]


def test_where_all_are_damaged_each_is_named_and_nothing_is_moved(run):
    for step in (2, 4, 6):
        empty(run / "checkpoints" / f"step_{step}")
    with open_checkpoints(run) as checkpoints, pytest.raises(InputError) as error:
        checkpoints.restore(state_of(0))
    message = str(error.value)
    assert [f"step {step} is damaged" in message for step in (2, 4, 6)] == [True] * 3
    assert message.endswith("; expected a whole one; there is no other")
    assert not (run / "set_aside").exists()


def test_the_step_that_is_asked_for_is_taken_and_later_ones_are_set_aside(run):
    with open_checkpoints(run) as checkpoints:
        assert_same(checkpoints.restore(state_of(0), from_step=2).state, state_of(2))
        checkpoints.set_aside_after(2)
        checkpoints.save(state_of(3), {"examples": 30})
        assert checkpoints.manager.all_steps() == [2, 3]
    assert sorted(path.name for path in (run / "set_aside").iterdir()) == ["step_4", "step_6"]


def test_a_step_that_is_not_there_or_damaged_is_refused_with_those_that_are(run):
    empty(run / "checkpoints" / "step_4")
    with open_checkpoints(run) as checkpoints:
        with pytest.raises(InputError, match=r"--from-step is 5, expected a checkpoint of .*checkpoints: 2, 4, 6$"):
            checkpoints.restore(state_of(0), from_step=5)
        with pytest.raises(InputError, match=r"step 4 is damaged \(.*\); expected --from-step 6 or 2$"):
            checkpoints.restore(state_of(0), from_step=4)


def test_a_checkpoint_of_another_shape_is_not_a_damaged_one(run):
    with open_checkpoints(run) as checkpoints:
        message = r"step 6 does not fit .* holds ema/vae\.a\.kernel of shape \(32, 32\), expected \(32, 64\); give"
        with pytest.raises(InputError, match=message):
            checkpoints.restore(state_of(0, channels=64))


def test_a_run_that_is_not_accepted_is_not_passed_over_for_an_older_one(run):
    asked = []

    def accept(name, run):
        asked.append((name, run))
        raise InputError("another run")

    with open_checkpoints(run) as checkpoints, pytest.raises(InputError, match="another run"):
        checkpoints.restore(state_of(0), accept)
    assert asked == [(f"{run}/checkpoints: step 6", RUN)]
