"""What a run refuses: a configuration, data or a folder that it cannot go on with."""

import json
import shutil
from dataclasses import replace

import pytest

from cassr_jax.config import LossConfig, ValidationConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.locks import claimed
from cassr_jax.training import loop, processes, setup
from tests.random_cascade import NETWORKS
from tests.training.runs import SIDE, configure, steps_of, write_pictures, zeros


def test_a_change_of_what_the_run_meets_is_refused_unless_it_is_allowed(config, finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    elsewhere = write_pictures(tmp_path / "elsewhere", 6)
    data = replace(config.data, path=str(elsewhere), sharp_fraction=0.5, prefetch=3)
    changed = replace(config, data=data, log_every=1)
    with pytest.raises(InputError) as error:
        loop.train(changed, workdir, from_step=6, allow_changes=["data.sharp_fraction"])
    assert "step 6 was trained on another stream of examples: data.path from '" in str(error.value)
    assert str(error.value).endswith("; expected it as it was, or --allow-change data.path data.contents")
    assert json.loads((workdir / "config.json").read_text())["data"]["path"] == config.data.path
    assert steps_of(workdir, config) == [6, 7]
    loop.train(changed, workdir, from_step=6, allow_changes=["data.path", "data.contents", "data.sharp_fraction"])
    assert "changed at step 6: data.sharp_fraction from 0.9 to 0.5\n" in capsys.readouterr().out
    lines = [json.loads(line) for line in (workdir / "changes.jsonl").read_text().splitlines()]
    expected = {
        "data.path": (config.data.path, str(elsewhere)),
        "data.prefetch": (2, 3),
        "data.sharp_fraction": (0.9, 0.5),
        "log_every": (2, 1),
    }
    assert {
        line["field"]: (line["before"], line["after"]) for line in lines if line["field"] != "data.contents"
    } == expected
    assert {line["step"] for line in lines} == {6}
    assert json.loads((workdir / "config.json").read_text())["data"]["path"] == str(elsewhere)
    assert (workdir / "set_aside" / "step_7").is_dir()
    loop.train(changed, workdir)  # as the newest checkpoint has it by now
    assert len((workdir / "changes.jsonl").read_text().splitlines()) == len(lines)


def test_pictures_that_changed_under_their_path_are_noticed(config, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    pictures = shutil.copytree(config.data.path, tmp_path / "pictures")
    (pictures / "1.png").unlink()
    moved = replace(config, data=replace(config.data, path=str(pictures)))
    with pytest.raises(
        InputError, match=r"data\.contents from '\w{16}' to '\w{16}'; expected it as it was, or --allow-change data\.c"
    ):
        loop.train(moved, workdir, from_step=6, allow_changes=("data.path",))


def test_a_folder_in_use_is_refused_and_left_as_it_is(config, tmp_path):
    with claimed(tmp_path, "train.py"), pytest.raises(InputError, match=r"in use by train\.py, process \d+ on "):
        loop.train(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_is_not_placed_on_purpose_is_refused(config, tmp_path, monkeypatch):
    """The guard on transfers: what a step takes was put on the devices before."""
    monkeypatch.setattr(loop.Placement, "place_batch", lambda placement, batch: dict(batch))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "base"}, "stage base needs unet, text_encoder, expected in `components` or in `new`"),
        ({"stage": "scedit", "new": {"scedit": NETWORKS["scedit"]}}, "stage scedit needs unet, text_encoder, "),
        (
            {"components": {"vae": "some/vae"}, "new": {"vae": NETWORKS["vae"]}},
            "vae is in `components`, as some/vae, and in `new`, expected it in one of them: a network is read or cr",
        ),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number of at least 1"),
        ({"num_steps": -1}, "num_steps is -1, expected a whole number of at least 1"),
        ({"save_every": 0}, "save_every is 0, expected a whole number of at least 1"),
        (
            {"keep_best": 1, "validation": ValidationConfig(every=3, path="held")},
            "save_every is 2, expected a multiple of validation.every, 3: keep_best compares checkpoints that were v",
        ),
        ({"max_lost_steps": 1}, "max_lost_steps is 1, expected at least save_every, which is 2"),
        (
            {"loss": LossConfig(start_fraction=1.5)},
            "loss.start_fraction is 1.5, expected a number of at least 0 and",
        ),
        (
            {"stage": "base", "loss": LossConfig(image_weight=1.0)},
            "loss.start_fraction is 0.0 of batch_size 2, expected more: loss.image_weight needs examples to decode",
        ),
        (
            {"stage": "base", "loss": LossConfig(start_fraction=0.1)},
            "loss.start_fraction is 0.1 of batch_size 2, expected more: it is part of one example",
        ),
        (
            {"loss": LossConfig(start_fraction=1.0, start_timestep=0)},
            "loss.start_timestep is 0, expected a whole number",
        ),
        (
            {"loss": LossConfig(max_timestep=0)},
            "loss.max_timestep is 0, expected a whole number of at least 1, or None",
        ),
        ({"loss": LossConfig(start_timestep=1000)}, "loss.start_timestep is 1000, expected 1 to 999"),
        ({"loss": LossConfig(max_timestep=1000)}, "loss.max_timestep is 1000, expected 1 to 999"),
        (
            {"stage": "scedit", "loss": LossConfig(max_timestep=2), "schedule": Schedule(steps_offset=5)},
            "strength is 0.002.*, which starts at timestep 2: 2 sampling steps do not fit",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(config, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        loop.train(replace(config, **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preview_every": 2}, "preview_every is 2, which takes a vae, expected one among `components`, or 0"),
        ({"loss": LossConfig(start_fraction=0.5)}, "loss.start_fraction is 0.5, which takes a vae"),
        ({"loss": LossConfig(image_weight=1.0)}, "loss.image_weight is 1.0, which takes a vae"),
    ],
)
@pytest.mark.parametrize("stage", ["base", "scedit", "cassr"])
def test_prepared_latents_take_a_vae_where_pictures_are_shown_or_judged(networks, stage, changes, message):
    lacking = configure(stage, networks, **changes)
    del lacking.components["vae"]
    with pytest.raises(InputError, match=message):
        setup.networks_of(lacking)
    setup.networks_of(replace(lacking, preview_every=0, loss=LossConfig()))


@pytest.mark.parametrize(
    ("change", "held_out", "message"),
    [
        ({}, 0.0, "validation: found data.held_out 0.0 and validation.path '', expected one of the two"),
        ({"path": "elsewhere"}, 0.4, "validation: found data.held_out 0.4 and validation.path 'elsewhere', expected"),
        ({"path": "PICTURES"}, 0.0, "validation.path is .*, which is trained on, expected other data"),
        ({"records": 3}, 0.6, "validation.records is 3, 4 in whole parts of a batch, expected at most the 3 that"),
    ],
)
def test_what_cannot_be_validated_on_is_refused(config, tmp_path, change, held_out, message):
    if "path" in change:
        change = change | {"path": change["path"].replace("PICTURES", config.data.path)}
    data = replace(config.data, held_out=held_out)
    with pytest.raises(InputError, match=message):
        loop.train(replace(config, data=data, validation=ValidationConfig(every=2, **change)), tmp_path / "run")


@pytest.mark.parametrize(
    ("run", "export_to"),
    [("file", None), ("run", "file"), ("run", "file/export"), ("with_export", None), ("with_checkpoints", None)],
)
def test_a_file_in_place_of_a_folder_is_named_before_anything_is_read(config, tmp_path, run, export_to, monkeypatch):
    monkeypatch.setattr(loop, "build", lambda *_: pytest.fail("networks were read"))
    (tmp_path / "file").write_text("")
    for name in ("export", "checkpoints"):
        (tmp_path / f"with_{name}").mkdir()
        (tmp_path / f"with_{name}" / name).write_text("")
    with pytest.raises(
        InputError, match=r"(file|export|checkpoints): cannot be made, since .* is a file; expected a folder"
    ):
        loop.train(config, tmp_path / run, export_to=None if export_to is None else tmp_path / export_to)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "run", "export", "found"),
    [
        ("pics", "pics/run", "out", "pics/run: lies within"),
        ("pics", "run", "pics/export", "pics/export: lies within"),
        ("run/previews", "run", "out", "run/previews: is"),
        ("run/checkpoints", "run", "out", "run/checkpoints: is"),
    ],
)
def test_a_run_that_would_write_among_its_data_is_refused(config, tmp_path, data, run, export, found, monkeypatch):
    """A continued run would find its own previews among the pictures."""
    monkeypatch.setattr(loop, "build", lambda *_: pytest.fail("networks were read"))
    pictures = write_pictures(tmp_path / data, 2)
    (tmp_path / "link").symlink_to(pictures)
    for data in (DataConfig(str(tmp_path / "link")), DataConfig(mixture={config.data.path: 1, str(pictures): 1})):
        shared = replace(config, data=data)
        with pytest.raises(InputError, match=rf"{found} data\.(path|mixture), .*, expected a folder outside it"):
            loop.train(shared, tmp_path / run, export_to=tmp_path / export)
    assert sorted(path.name for path in pictures.iterdir()) == ["0.png", "1.png"]


def test_data_may_lie_within_the_folder_of_a_run(config, tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    def reach(*_):
        raise Reached

    monkeypatch.setattr(loop, "build", reach)
    pictures = write_pictures(tmp_path / "run" / "pictures", 2)
    with pytest.raises(Reached):
        loop.train(replace(config, data=DataConfig(str(pictures))), tmp_path / "run", export_to=None)


def test_processes_with_other_data_are_refused(config, tmp_path, monkeypatch):
    def gathered(text):
        told = json.loads(text) if text.startswith("{") else None
        return [text, json.dumps(told | {"data.contents": "0" * 16}) if told and "data.contents" in told else text]

    monkeypatch.setattr(processes, "gather_texts", gathered)
    message = r"process 1 has data\.contents '0{16}', expected '\w{16}' as process 0; give all processes the same data"
    with pytest.raises(InputError, match=message):
        loop.train(config, tmp_path)


def test_processes_with_other_weights_are_refused(networks, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "gather_texts", lambda text: [text, text.replace('"sha256": "', '"sha256": "_')])
    message = r"process 1 has frozen\.vae\.sha256 '_\w+', expected '\w+' as process 0; give all processes the same w"
    with pytest.raises(InputError, match=message):
        loop.train(configure("scedit", networks), tmp_path)


def test_another_networks_run_is_not_taken_up(config, finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr("cassr_jax.kinds.initialise", zeros)
    new = {"vae": replace(NETWORKS["vae"], block_out_channels=(8, 16, 16))}
    other = replace(config, components={}, new=new)
    with pytest.raises(InputError, match=r"step 7 is of a run whose new is \{\}, expected .*, or another folder"):
        loop.train(other, workdir)
    assert steps_of(workdir, config) == [6, 7]


@pytest.mark.parametrize(
    ("stage", "preset", "without", "message"),
    [
        ("scedit", None, "tokenizer", "gives .*, stage scedit also needs lq"),
        ("cassr", None, "tokenizer", "gives .*, stage cassr also needs lq, reference"),
        ("cassr", "light", "tokenizer", "gives .*, stage cassr also needs reference"),
        ("scedit", "light", "vae", "gives no latents, so that stage scedit needs a vae"),
    ],
)
def test_data_that_lack_what_the_stage_reads_are_named(config, networks, tmp_path, stage, preset, without, message):
    data = DataConfig(config.data.path, crop_size=SIDE, preset=preset, prefetch=2)
    lacking = configure(stage, networks, data=data)
    lacking.components.pop(without, None)
    with pytest.raises(InputError, match=f"{config.data.path}: {message}"):
        loop.train(lacking, tmp_path)
