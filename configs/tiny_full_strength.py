"""A trial: the embedded model's second stage for the paper's way of sampling, many steps from the LR image's latents at
full noise, in the place of its own one step. Judged on latents alone. docs/tiny.md has the outcome."""

import runpy
from dataclasses import replace
from pathlib import Path

from cassr_jax.config import LossConfig

config = runpy.run_path(str(Path(__file__).with_name("tiny_both.py")))["config"]

config = replace(
    config,
    components=config.components
    | {"controlnet": "runs/both/export/controlnet", "multiple_attention": "runs/both/export/multiple_attention"},
    loss=LossConfig(snr_gamma=5.0, start="lr", start_fraction=0.125, start_timestep=999),
    optimizer=replace(config.optimizer, decay="cosine"),
    batch_size=8,
    num_steps=240,
    save_every=80,
)
