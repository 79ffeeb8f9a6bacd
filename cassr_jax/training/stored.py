"""A run's stored weights: those of one checkpoint, read one parameter at a time, with no frozen network."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import from_json
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.files import is_folder, read_json
from cassr_jax.kinds import kind_of
from cassr_jax.training.checkpoint import CHECKPOINTS, CHECKSUMS
from cassr_jax.training.checksums import array_checksum
from cassr_jax.training.previews import schedule_of
from cassr_jax.training.stages import DISCRIMINATOR, stage_named
from cassr_jax.weights.configs import Config
from cassr_jax.weights.orbax_state import StateTree, open_state
from cassr_jax.weights.tensors import Weights

_INTACT = "an intact checkpoint; an older one is chosen by its step"
_STEP = re.compile(r"step_(\d+)")


class StoredRun(NamedTuple):
    """The trained networks of one checkpoint.

    Attributes:
        step: the checkpoint.
        networks: kind -> the weights, not yet read.
        schedule: the schedule with which to sample them.
        averaged: whether they are the average of the weights (EMA), and not the last ones.
    """

    step: int
    networks: Mapping[str, Weights]
    schedule: Schedule
    averaged: bool


def open_checkpoint(workdir: Path, step: int | None = None, last: bool = False) -> StoredRun:
    """The networks that a run has trained, as `train.py --export` would write them; no other network is needed.

    Args:
        step: the checkpoint; by default the newest.
        last: take the last weights even if there is an average of them.

    Raises:
        InputError: there is no such checkpoint, it is damaged, or its parameters are not those of its networks.
    """
    folder = _checkpoint(workdir / CHECKPOINTS, step)
    account = read_json(folder / "run" / "metadata")
    config = from_json(TrainConfig, account.get("config"), f"{folder}: config")
    averaged = bool(config.optimizer.ema_decay) and not last
    stored = _stored(folder, "ema" if averaged else "params", account.get(CHECKSUMS, {}))
    networks = {kind: _weights(kind, config, folder, stored) for kind in stage_named(config.stage).trains}
    known = {f"{kind}.{name}" for kind, weights in networks.items() for name in weights.shapes}
    if others := sorted(
        name for name in stored.arrays if name not in known and not name.startswith(f"{DISCRIMINATOR}.")
    ):
        raise InputError(f"{folder}: holds {others[0]}, expected parameters of {', '.join(networks)} alone")
    return StoredRun(int(folder.name.split("_")[1]), networks, schedule_of(config), averaged)


def _checkpoint(folder: Path, step: int | None) -> Path:
    steps = sorted(int(found[1]) for path in folder.glob("step_*") if (found := _STEP.fullmatch(path.name)))
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"step {step}"
        raise InputError(f"{folder}: holds {', '.join(map(str, steps)) or 'no checkpoint'}, expected {wanted}")
    return folder / f"step_{steps[-1] if step is None else step}"


def _stored(folder: Path, tree: str, checksums: Mapping[str, int]) -> StateTree:
    state = folder / "state"
    if not is_folder(state):
        raise InputError(f"{state}: no such folder, expected a training state")

    def check(name: str, array: np.ndarray) -> None:
        if checksums.get(f"{tree}/{name}") not in (None, array_checksum(array)):
            raise InputError(f"{state}: {tree} {name} is not what was saved, expected {_INTACT}")

    return replace(open_state(state, tree, _INTACT), check=check)


def _weights(kind: str, config: TrainConfig, folder: Path, stored: StateTree) -> Weights:
    network = _network(kind, config, folder)
    shapes = kind_of(kind).shapes(network)
    expected = {f"{kind}.{name}": shape.shape for name, shape in shapes.items()}
    found = {name: array.shape for name, array in stored.arrays.items() if name.startswith(f"{kind}.")}
    if wrong := sorted(n for n in expected.keys() | found if found.get(n) != expected.get(n)):
        source = config.components.get(kind, "a new one")
        raise InputError(
            f"{folder}: {wrong[0]} is {found.get(wrong[0])}, expected {expected.get(wrong[0])}, as in the {kind} of "
            f"the run's configuration, {source}"
        )
    read = stored.reader([*expected])

    def fetch(name: str) -> np.ndarray:
        return read(f"{kind}.{name}")

    return Weights(folder, network, shapes, {name: stored.arrays[f"{kind}.{name}"].dtype for name in shapes}, fetch)


def _network(kind: str, config: TrainConfig, folder: Path) -> Config:
    if kind not in config.new:
        return kind_of(kind).configuration(config.components[kind])
    if kind == "vae" and config.stage == "vae":
        raise InputError(
            f"{folder}: holds an autoencoder that began as a new one, whose scaling_factor train.py --export measures; "
            "expected that export"
        )
    return config.new[kind]
