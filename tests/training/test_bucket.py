"""A run whose folder is in a bucket: the same run, to the bit, and the same files."""

import json

import pytest

from cassr_jax.buckets import folder_at
from cassr_jax.errors import InputError
from cassr_jax.training import loop
from tests.training.runs import assert_same, restore

pytest.importorskip("gcsfs")

from tests import bucket


@pytest.fixture(scope="module")
def folder():
    with bucket.served() as variables, pytest.MonkeyPatch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        yield folder_at(f"gs://{bucket.NAME}/runs/vae")


@pytest.fixture(scope="module")
def run(config, folder):
    """Finished, and then taken up once more before its last step."""
    for step in (None, 6):
        assert loop.train(config, folder, from_step=step) == folder / "export"
    return folder


def names(folder) -> set[str]:
    return {path.name for path in folder.glob("*")}


def test_it_is_the_run_of_a_folder_on_this_machine(config, finished, run):
    (expected, data), (found, stored) = restore(config, finished), restore(config, run)
    assert_same(found, expected)
    assert stored == data


def test_it_leaves_the_same_files(finished, run):
    assert names(run) == names(finished) | {"set_aside"}
    assert names(run / "export") == names(finished / "export")
    assert names(run / "set_aside") == {"step_7"}
    weights = "diffusion_pytorch_model.safetensors"
    assert (run / "export" / "vae" / weights).read_bytes() == (finished / "export" / "vae" / weights).read_bytes()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 7, 7]  # those of both starts
    assert len(names(run / "tensorboard")) == 2


@pytest.mark.slow
def test_an_export_goes_where_it_is_asked_to(config, run, tmp_path):
    assert loop.train(config, run, export_to=tmp_path / "here") == tmp_path / "here"
    there = run.parent / "elsewhere"
    assert loop.train(config, run, export_to=there) == there
    assert (there / "trained.json").read_text() == (tmp_path / "here" / "trained.json").read_text()
    assert ".lock" not in names(run) | names(there)


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_short_is_set_aside(config, run):
    """By whom nobody knows: Google's store leaves none."""
    for path in list((run / "checkpoints" / "step_7" / "state").glob("*")):
        if path.name in ("_METADATA", "manifest.ocdbt"):
            path.unlink()
    with pytest.raises(InputError, match="step 7 is damaged"):
        loop.train(config, run, from_step=7)
    assert loop.train(config, run) == run / "export"
    assert "step_7" in names(run / "checkpoints")
    assert names(run / "set_aside") == {"step_7", "step_7_2"}
