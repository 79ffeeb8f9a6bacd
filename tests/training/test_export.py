"""What a run exports: a cascade that samples as the run trained, in a folder that is whole or none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cassr_jax
from cassr_jax.config import LossConfig, TrainConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.loading import read_cascade
from cassr_jax.networks import write_network
from cassr_jax.sampling import make_course
from cassr_jax.training import export as exporting
from cassr_jax.training import setup
from cassr_jax.training.masking import partition
from cassr_jax.training.previews import sampling_of, schedule_of
from cassr_jax.training.state import TrainState, make_optimizer
from tests.training.runs import configure
from tests.weights.published import save


def written(config: TrainConfig, folder: Path) -> Path:
    """The export of a run's first state."""
    networks = setup.build(config)
    trainable, frozen = partition(networks.params, config.stage)
    state = TrainState.create(trainable, make_optimizer(config.optimizer, config.num_steps))
    return exporting.export(config, networks, state, frozen, folder, dict)


def test_an_interrupted_export_leaves_no_mixture(networks, tmp_path, monkeypatch):
    config, writing = configure("cassr", networks), []
    folder = written(config, tmp_path / "export")
    assert read_cascade(tmp_path)[1] == folder

    def write(*arguments):
        writing.append(arguments)
        if len(writing) == 2:
            raise KeyboardInterrupt
        write_network(*arguments)

    monkeypatch.setattr(exporting, "write_network", write)
    with pytest.raises(KeyboardInterrupt):
        written(config, folder)
    with pytest.raises(InputError, match=r"holds no cassr\.json"):
        read_cascade(folder)


def test_an_export_leaves_a_cascade_alone_that_it_does_not_write(networks, tmp_path):
    (tmp_path / "cassr.json").write_text("{}")
    written(configure("scedit", networks), tmp_path)
    assert (tmp_path / "cassr.json").read_text() == "{}"


def test_a_cascade_has_the_loras_that_its_run_had(networks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"
    config = configure("cassr", networks)
    plain = setup.build(config).params[f"unet.{layer}.kernel"]
    factors = {"A": np.ones((1, plain.shape[0]), np.float32), "B": np.ones((plain.shape[1], 1), np.float32)}
    save(tmp_path / "style.safetensors", {f"unet.{layer}.lora_{name}.weight": value for name, value in factors.items()})
    folder = written(replace(config, loras={"style.safetensors": 0.5}), tmp_path / "run" / "export")
    monkeypatch.chdir("/")
    cascade = cassr_jax.load(folder)
    np.testing.assert_allclose(cascade.networks.params[f"unet.{layer}.kernel"] - plain, 0.5, atol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("timestep", "strength"), [(1, 1 / 999), (200, 200 / 999), (999, 1.0)])
def test_a_one_step_model_is_sampled_at_the_timestep_of_its_examples(networks, spacing, timestep, strength):
    loss = LossConfig(start_fraction=0.5, start_timestep=timestep)
    config = configure("cassr", networks, loss=loss, schedule=Schedule(timestep_spacing=spacing))
    assert sampling_of(config).strength == strength
    assert make_course(schedule_of(config), sampling_of(config)).trajectory.timesteps.tolist() == [timestep]


@pytest.mark.parametrize(("most", "steps"), [(None, 50), (999, 50), (400, 50), (20, 20), (1, 1)])
def test_a_model_of_partial_strength_is_sampled_within_its_timesteps(networks, most, steps):
    config = configure("cassr", networks, loss=LossConfig(max_timestep=most))
    timesteps = make_course(schedule_of(config), sampling_of(config)).trajectory.timesteps
    assert len(timesteps) == steps
    assert timesteps[0] <= (most or 999)


def test_an_exported_cascade_samples_as_it_was_trained(networks, tmp_path):
    config = configure("cassr", networks, loss=LossConfig(start="reference", start_fraction=1.0))
    exported = cassr_jax.load(written(config, tmp_path)).config
    assert (exported.sampling.start, exported.sampling.num_steps) == ("reference", 1)
    assert make_course(exported.known_schedule, exported.sampling).trajectory.timesteps.tolist() == [200]
