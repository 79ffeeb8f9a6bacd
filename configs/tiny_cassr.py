"""The embedded model, stage 4 of 4: the ControlNet and the multiple attention, on pairs with references.

Most examples are the one step that the embedded cascade takes: from the reference's latents at timestep 200.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.weights.configs import AttachedConfig

base = runpy.run_path(str(Path(__file__).with_name("tiny_base.py")))
scedit = runpy.run_path(str(Path(__file__).with_name("tiny_scedit.py")))["config"]

config = replace(
    scedit,
    stage="cassr",
    data=replace(scedit.data, path="runs/references"),
    new={
        "controlnet": AttachedConfig(base["unet"], ControlNetConfig(conditioning_embedding_out_channels=(32, 64, 96))),
        "multiple_attention": base["unet"],
    },
    loss=replace(scedit.loss, start="reference"),
    optimizer=replace(scedit.optimizer, learning_rate=5e-4),
    num_steps=1800,
)
