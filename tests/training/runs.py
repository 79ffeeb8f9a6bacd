"""Narrow training runs: configurations of every stage over the random cascade, and made data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from cassr_jax.config import LossConfig, OptimizerConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.models.parameters import abstract
from cassr_jax.networks import write_network
from cassr_jax.prompts import prompt_ids
from cassr_jax.sharding.strategies import MeshConfig, Strategy
from cassr_jax.training.checkpoint import Checkpoints, Digests, Origins
from cassr_jax.training.masking import partition
from cassr_jax.training.objectives import Objective, make_objective
from cassr_jax.training.setup import build
from cassr_jax.training.stages import STAGES as ALL
from cassr_jax.training.state import TrainState, make_optimizer
from tests.data.measures import picture
from tests.random_cascade import NETWORKS, random_params

STAGES = ("vae", "base", "scedit", "controlnet", "cassr", "pasd", "residuals", "fusion")
SIDE = 32  # of crops, in px
ONE_DEVICE = Strategy(MeshConfig(data=1))
_FROZEN = ("vae", "unet", "text_encoder")
_VAE_CONFIG = """
from cassr_jax.config import LossConfig, OptimizerConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.sharding.strategies import MeshConfig, Strategy

config = TrainConfig(
    stage="vae",
    data=DataConfig({pictures!r}, crop_size=32, prefetch=2),
    components={{"vae": {vae!r}}},
    loss=LossConfig(perceptual_weight=0.0),
    optimizer=OptimizerConfig(warmup_steps=1),
    strategy=Strategy(MeshConfig(data=1)),
    num_steps=5,
    save_every=2,
    log_every=1,
)
"""


def write_networks(folder: Path) -> Path:
    """Every network: those that several stages read as if trained, those that one stage trains as new ones.

    Drawing new networks would take most of the time of these tests, so they are read.
    """
    for kind in NETWORKS:
        write_network(folder / kind, kind, NETWORKS[kind], random_params(kind, trained=kind in _FROZEN))
    return folder


def write_pictures(folder: Path, count: int = 5) -> Path:
    folder.mkdir(parents=True)
    for seed in range(count):
        Image.fromarray(picture(48, seed)).save(folder / f"{seed}.png")
    return folder


def write_vae_run(folder: Path) -> Path:
    """Pictures, an autoencoder and a configuration file that trains it on them, for `train.py` as a program."""
    pictures = write_pictures(folder / "pictures")
    write_network(folder / "vae", "vae", NETWORKS["vae"], random_params("vae"))
    file = folder / "config.py"
    file.write_text(_VAE_CONFIG.format(pictures=str(pictures), vae=str(folder / "vae")))
    return file


def configure(stage: str, networks: Path, data: DataConfig | Path | str = "unused", **changes: Any) -> TrainConfig:
    """A stage over `write_networks`; warm-up of one step."""
    others = ("scedit",) if stage == "cassr" else ()  # the first stage of the cascade that it exports
    kinds = (*_FROZEN, *ALL[stage].needs, *ALL[stage].trains, *others)
    read = ("vae",) if stage == "vae" else dict.fromkeys(kinds)
    settings: dict[str, Any] = {
        "data": data if isinstance(data, DataConfig) else DataConfig(str(data), crop_size=SIDE, prefetch=2),
        "components": {kind: str(networks / kind) for kind in read},
        "loss": LossConfig(perceptual_weight=0.0),
        "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=1),
        "strategy": ONE_DEVICE,
        "schedule": Schedule(),
        "activation": {"cassr": "scedit", "fusion": "rrdbnet", "pasd": "identity", "residuals": "identity"}.get(stage),
        "batch_size": 2,
        "num_steps": 6,
        "save_every": 2,
        "log_every": 2,
    }
    return TrainConfig(stage=stage, **settings | changes)


def objective_and_params(config: TrainConfig) -> tuple[Objective, dict[str, jax.Array], dict[str, jax.Array]]:
    """The loss of a stage, its trainable and its frozen parameters."""
    networks = build(config)
    ids = None
    if "text_encoder" in networks.configs:
        ids = prompt_ids(networks.configs["text_encoder"], None, ["", config.prompt])
    return make_objective(config, networks.graphdefs, ids), *partition(networks.params, config.stage)


def origins(config: TrainConfig, params: Mapping[str, ArrayLike]) -> Origins:
    """The source and hash of each network, from all its parameters."""
    digests = Digests()
    for name in sorted(params):
        digests.add(name, np.asarray(params[name]))
    return digests.origins(config)


def example_keys(key: jax.Array, size: int = 2) -> jax.Array:
    """One key for each example, as a step derives them."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))


def make_batch(stage: str, size: int = 2) -> dict[str, np.ndarray]:
    """Made pictures under the names that a stage reads."""
    guided = ("hr", "lq", "reference")
    names = {"vae": ("hr",), "base": ("hr",), "cassr": guided, "fusion": guided}.get(stage, ("hr", "lq"))
    return {
        name: np.stack([picture(SIDE, seed=10 * i + j) for j in range(size)]).astype(np.uint8)
        for i, name in enumerate(names)
    }


def restore(config: TrainConfig, workdir: Path) -> tuple[TrainState, dict]:
    """The newest checkpoint of a run."""
    trainable, _ = partition(build(config).params, config.stage)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    try:
        like = TrainState.create(trainable, make_optimizer(config.optimizer, config.num_steps))
        saved = checkpoints.restore(like)
        return saved.state, saved.data
    finally:
        checkpoints.close()


def assert_same(left: Any, right: Any) -> None:
    """Trees of equal structure, every leaf equal to the bit."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, a), b in zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))


def steps_of(workdir: Path, config: TrainConfig) -> list[int]:
    """The steps whose checkpoints a run has kept."""
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    try:
        return sorted(checkpoints.manager.all_steps())
    finally:
        checkpoints.close()


def zeros(factory, _):
    """Stands in for `initialise` where the drawn values do not matter, because drawing takes long to compile."""
    graphdef, shapes = abstract(factory)
    return graphdef, {name: jnp.zeros(shape.shape) for name, shape in shapes.items()}
