"""The noise schedule comes with the weights, in sampling and in training; a contradiction is refused."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cassr_jax
from cassr_jax.commands.bundle import bundle
from cassr_jax.commands.fingerprint import fingerprint
from cassr_jax.config import CascadeConfig
from cassr_jax.config_files import to_json
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.files import write_json
from cassr_jax.loading import CASCADE_FILE, read_cascade
from cassr_jax.networks import write_network
from cassr_jax.schedules import agreed, write_schedule
from cassr_jax.training import loop
from cassr_jax.training.export import export
from cassr_jax.training.masking import partition
from cassr_jax.training.setup import build, with_schedule
from cassr_jax.training.state import TrainState, make_optimizer
from tests.random_cascade import NETWORKS, UNET, random_params, write_random_cascade
from tests.training.runs import configure
from tests.weights.published import original, save, torch_state

V = Schedule(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)
SD21 = {  # Stable Diffusion 2.1's own file
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade of random weights that spells out no schedule."""
    return write_random_cascade(tmp_path_factory.mktemp("cascade"), schedule=None)


@pytest.fixture
def folder(networks: Path, tmp_path: Path) -> Path:
    """Its networks by links, in a folder of its own."""
    for file in networks.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def with_config(folder: Path, schedule: Schedule | None) -> Path:
    config, _ = read_cascade(folder)
    (folder / CASCADE_FILE).unlink()
    write_json(folder / CASCADE_FILE, to_json(replace(config, schedule=schedule)))
    return folder


def test_weights_that_say_nothing_are_stable_diffusion_15s(folder: Path):
    assert cassr_jax.load(folder).config.schedule == Schedule()
    assert agreed(V, str(folder), "x") == V


def test_a_v_prediction_checkpoint_is_sampled_as_one(folder: Path):
    write_json(folder / "scheduler" / "scheduler_config.json", SD21)
    assert cassr_jax.load(folder).config.known_schedule == Schedule(prediction_type="v_prediction")


def test_a_cascade_without_a_schedule_says_who_gives_it_one():
    with pytest.raises(InputError, match="schedule is None, expected a Schedule"):
        _ = CascadeConfig().known_schedule


def test_a_pipelines_folder_is_searched_where_it_holds_the_unet(folder: Path):
    write_schedule(folder, V)
    assert agreed(None, str(folder), "x") == agreed(None, str(folder / "unet"), "x") == V
    file = next((folder / "unet").glob("*.safetensors"))
    assert agreed(None, str(file), "x") == V


def test_a_scheduler_that_belongs_to_something_else_is_none_of_the_weights(folder: Path):
    write_schedule(folder, V)
    lone = save(folder / "lone.safetensors", original("unet", torch_state(random_params("unet")), "model."))
    assert agreed(None, str(lone), "x") == Schedule()
    (folder / "model_index.json").write_text("{}")  # now it is the folder of one pipeline
    assert agreed(None, str(lone), "x") == V


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ((), Schedule()),
        (("v_pred",), Schedule(prediction_type="v_prediction")),
        (("v_pred", "ztsnr"), V),
    ],
)
def test_marks_in_a_single_file_say_what_it_predicts(tmp_path: Path, marks, expected):
    state = original("unet", torch_state(random_params("unet")), "model.diffusion_model.")
    save(tmp_path / "lone.safetensors", state | {mark: np.zeros((0,), np.float32) for mark in marks})
    assert agreed(None, str(tmp_path / "lone.safetensors"), "x") == expected


@pytest.mark.parametrize(
    ("field", "ours"),
    [("prediction_type", "epsilon"), ("beta_end", 0.02), ("beta_schedule", "linear"), ("num_train_timesteps", 500)],
)
def test_a_contradiction_names_both(folder: Path, field: str, ours):
    file = folder / "scheduler" / "scheduler_config.json"
    write_json(file, SD21)
    theirs = SD21[field]
    schedule = replace(Schedule(prediction_type="v_prediction"), **{field: ours})
    message = f"{folder}: schedule.{field} is {ours!r}, but {theirs!r} in {file}, which lies with the weights of the un"
    with pytest.raises(InputError, match=re.escape(message)):
        cassr_jax.load(with_config(folder, schedule))


def test_how_it_is_sampled_is_the_configurations_to_choose(folder: Path):
    write_json(folder / "scheduler" / "scheduler_config.json", SD21 | {"_class_name": "DPMSolverMultistepScheduler"})
    chosen = Schedule(prediction_type="v_prediction", timestep_spacing="trailing", set_alpha_to_one=True)
    assert cassr_jax.load(with_config(folder, chosen)).config.schedule == chosen


def test_a_sampler_not_offered_here_is_refused_unless_the_configuration_has_its_own(folder: Path):
    write_json(folder / "scheduler" / "scheduler_config.json", SD21 | {"use_karras_sigmas": True})
    with pytest.raises(InputError, match=r"scheduler_config.json: a .* use_karras_sigmas = True, which is not offered"):
        cassr_jax.load(folder)
    own = Schedule(prediction_type="v_prediction")
    assert cassr_jax.load(with_config(folder, own)).config.schedule == own


def test_a_schedule_too_short_for_the_configured_steps_is_refused_with_the_file(folder: Path):
    write_json(folder / "scheduler" / "scheduler_config.json", SD21 | {"num_train_timesteps": 3})
    message = f"{folder}: 3 sampling steps do not fit into timesteps 0 to 2 with leading spacing, expected at most 2"
    with pytest.raises(InputError, match=re.escape(message)):
        cassr_jax.load(folder)


@pytest.mark.parametrize("text", ["[]", "{", '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'])
def test_a_damaged_or_foreign_scheduler_is_named(folder: Path, text: str):
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(text)
    for schedule in (None, Schedule()):
        with pytest.raises(InputError, match=r"scheduler_config\.json: .*expected"):
            agreed(schedule, str(folder), "x")


def test_the_fingerprint_counts_the_schedule(folder: Path):
    before = fingerprint(folder)
    write_schedule(folder, V)
    assert fingerprint(folder) != before


def test_a_bundle_takes_the_schedule_along(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    write_schedule(folder, V)
    output = tmp_path_factory.mktemp("bundle")
    config = CascadeConfig(components={"unet": "unet"})
    bundle(config, folder, output, "float32")
    assert agreed(None, str(output / "unet"), "x") == V


def test_training_takes_the_weights_schedule(folder: Path):
    write_schedule(folder, V)
    config = configure("scedit", folder, schedule=None)
    assert with_schedule(config).schedule == V
    with pytest.raises(InputError, match=r"stage scedit: schedule.prediction_type is 'epsilon', but 'v_prediction' in"):
        with_schedule(replace(config, schedule=Schedule()))
    assert with_schedule(replace(config, new={"unet": UNET})).schedule == Schedule()
    assert with_schedule(configure("vae", folder, schedule=None)).schedule == Schedule()


def test_a_run_refuses_a_contradiction_before_it_writes(folder: Path, tmp_path: Path):
    write_schedule(folder, V)
    with pytest.raises(InputError, match=r"schedule.prediction_type is 'epsilon', but 'v_prediction' in"):
        loop.train(configure("scedit", folder, folder, schedule=Schedule()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_exported_unet_says_what_it_was_trained_on(tmp_path: Path):
    for kind in ("vae", "unet", "text_encoder"):
        write_network(tmp_path / kind, kind, NETWORKS[kind], random_params(kind))
    write_schedule(tmp_path, V)
    config = with_schedule(configure("base", tmp_path, schedule=None))
    networks = build(config)
    trainable, frozen = partition(networks.params, "base")
    state = TrainState.create(trainable, make_optimizer(config.optimizer, 1))
    exported = export(config, networks, state, frozen, tmp_path / "export", pytest.fail)
    assert agreed(None, str(exported / "unet"), "x") == V


def test_an_exported_cascade_names_the_link_that_was_given(tmp_path: Path, networks: Path):
    """A hub's cache holds links to files that are named by a hash alone."""
    snapshot, blob = tmp_path / "snapshots" / "unet", tmp_path / "blobs" / "0f1e2d3c"
    shutil.copytree(networks / "unet", snapshot)
    blob.parent.mkdir()
    link = next(snapshot.glob("*.safetensors"))
    shutil.move(link, blob)
    link.symlink_to(blob)
    write_schedule(tmp_path / "snapshots", V)
    config = configure("cassr", networks, schedule=None)
    config = with_schedule(replace(config, components={**config.components, "unet": str(link)}))
    built = build(config)
    trainable, frozen = partition(built.params, "cassr")
    state = TrainState.create(trainable, make_optimizer(config.optimizer, 1))
    exported = export(config, built, state, frozen, tmp_path / "export", pytest.fail)
    assert read_cascade(exported)[0].components["unet"] == str(link)
    assert cassr_jax.load(exported).config.schedule == V


@pytest.mark.reference
def test_what_is_written_is_diffusers_scheduler(tmp_path: Path):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    write_schedule(tmp_path, V)
    theirs = diffusers.DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    assert not theirs.config.clip_sample
    np.testing.assert_allclose(theirs.alphas_cumprod.numpy(), V.alphas_cumprod, rtol=1e-5)
    theirs.set_timesteps(10)
    np.testing.assert_array_equal(theirs.timesteps.numpy(), V.spaced_timesteps(10))
