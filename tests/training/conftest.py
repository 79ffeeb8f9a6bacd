"""The networks that the training tests read, and a run that is done."""

from pathlib import Path

import pytest

from cassr_jax.config import OptimizerConfig, TrainConfig
from cassr_jax.training import loop
from tests.training.runs import configure, write_networks, write_pictures


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> Path:
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="package")
def config(tmp_path_factory, networks) -> TrainConfig:
    """A short run of an autoencoder: its average differs from its weights, and its rate depends on the step."""
    data = write_pictures(tmp_path_factory.mktemp("data") / "pictures")
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=2, decay="cosine", ema_decay=0.9)
    return configure("vae", networks, data, optimizer=optimizer, num_steps=7)


@pytest.fixture(scope="package")
def finished(config, tmp_path_factory) -> Path:
    """The folder of that run, done."""
    workdir = tmp_path_factory.mktemp("finished")
    assert loop.train(config, workdir) == workdir / "export"
    return workdir
