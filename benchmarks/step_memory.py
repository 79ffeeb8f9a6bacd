#!/usr/bin/env python
"""Count the memory that the parameters of a training stage take of a device at full size, from shapes alone.

    python benchmarks/step_memory.py

The stages are those on Stable Diffusion 1.5. The last column is one of eight devices that divide everything (`fsdp`).
Activations are not counted.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import read_config
from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.models.parameters import Shapes
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import Networks
from cassr_jax.sharding.account import bytes_per_device
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.strategies import STRATEGIES
from cassr_jax.training.masking import partition
from cassr_jax.training.state import abstract_state, make_optimizer

STAGES = ("scedit", "controlnet", "cassr")
DEVICES = 8
COLUMNS = ("trained", "optimizer", "average", "gradient", "frozen", "together", "by eight (`fsdp`)")


def main() -> None:
    jax.config.update("jax_platforms", "cpu")  # nothing is computed, so there is no need to wait for a device
    jax.config.update("jax_num_cpu_devices", DEVICES)
    print(table())


def table() -> str:
    """A Markdown table with a row for each stage, in MiB."""
    rows = [("MiB on one device", *COLUMNS), ("---",) * (1 + len(COLUMNS)), *map(row, STAGES)]
    return "\n".join(f"| {' | '.join(cells)} |".replace(" --- ", "---") for cells in rows)


def row(stage: str) -> tuple[str, ...]:
    config = read_config(Path(__file__).parents[1] / f"configs/sd15_{stage}.py")
    trained, frozen = partition(shapes(config), stage)
    count, rest = (round(sum(shape.size for shape in part.values()) / 1e6) for part in (trained, frozen))
    placements = (
        Placement.of(strategy, jax.devices()[:DEVICES]) for strategy in (STRATEGIES["dp"], STRATEGIES["fsdp"])
    )
    held, shared = (held_by(config, trained, frozen, placement) for placement in placements)
    title = f"`{stage}` ({count} million trained, {rest} million frozen)"
    return title, *(f"{size / 2**20:.0f}" for size in (*held, sum(held), sum(shared)))


def shapes(config: TrainConfig) -> Shapes:
    networks = Networks()
    kinds = {"vae": VAEConfig(), "unet": UNetConfig(), "text_encoder": CLIPTextConfig(), **config.new}
    for kind, network in kinds.items():
        networks = networks.with_shapes(kind, network, config.dtype)
    return networks.params


def held_by(config: TrainConfig, trained: Shapes, frozen: Shapes, placement: Placement) -> list[int]:
    """The bytes on one device: trained parameters, optimizer, average, gradient, frozen parameters."""
    trained = {name: jax.ShapeDtypeStruct(value.shape, jnp.float32) for name, value in trained.items()}
    state = abstract_state(trained, make_optimizer(config.optimizer, config.num_steps), placement)
    layout = placement.held(frozen)
    kept = {
        name: jax.ShapeDtypeStruct(value.shape, config.frozen_dtype, sharding=layout[name])
        for name, value in frozen.items()
    }
    parts = (state.params, state.opt_state, state.ema, state.params, kept)
    return [bytes_per_device(jax.tree.leaves(part)) for part in parts]


if __name__ == "__main__":
    main()
