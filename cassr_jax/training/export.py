"""What a run leaves behind: the trained networks, as folders that a cascade's `components` can name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cassr_jax.config import TrainConfig
from cassr_jax.data.resident import draw
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.networks import Networks, write_network
from cassr_jax.training.assembly import open_data
from cassr_jax.training.masking import TRAINABLE
from cassr_jax.training.objectives import to_float


def export(config: TrainConfig, networks: Networks, trained: Params, folder: Path) -> Path:
    """Write what the stage trained, one folder a component, as `CascadeConfig.components` names them."""
    for kind in TRAINABLE[config.stage]:
        network, params = networks.configs[kind], select(trained, kind)
        if kind == "vae" and kind in config.new:
            batch = next(open_data(replace(config, batch_size=64)))
            if config.data.resident:
                batch = draw(batch, jax.random.key(config.seed), 64, config.data.crop_size)
            network = replace(network, scaling_factor=_scaling_factor(networks.graphdefs[kind], params, batch))
        write_network(folder / kind, kind, network, params)
    return folder


def _scaling_factor(graphdef: nnx.GraphDef, params: Params, batch: Mapping[str, Any]) -> float:
    """One over the standard deviation of the latents, so that a diffusion model sees them at unit size."""
    mean, logvar = jax.jit(lambda params, hr: merge(graphdef, params).moments(to_float(hr)))(params, batch["hr"])
    return float(1 / jnp.sqrt(jnp.var(mean) + jnp.mean(jnp.exp(logvar))))
