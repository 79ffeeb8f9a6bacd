"""The embedded model, stage 4 of 4: the ControlNet and the multiple attention, on pairs with references."""

import runpy
from dataclasses import replace
from pathlib import Path

from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.weights.configs import AttachedConfig

base = runpy.run_path(str(Path(__file__).with_name("tiny_base.py")))

config = replace(
    base["config"],
    stage="cassr",
    data=replace(base["config"].data, path="runs/pairs"),
    components={
        "vae": "runs/vae/export/vae",
        "unet": "runs/base/export/unet",
        "text_encoder": "runs/base/export/text_encoder",
    },
    new={
        "controlnet": AttachedConfig(base["unet"], ControlNetConfig(conditioning_embedding_out_channels=(16, 32, 64))),
        "multiple_attention": base["unet"],
    },
    # The small model starts at partial strength, from where a picture is already to be seen.
    loss=replace(base["config"].loss, max_timestep=500),
    optimizer=replace(base["config"].optimizer, learning_rate=6e-4),
    num_steps=500,
)
