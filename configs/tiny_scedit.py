"""The embedded model, stage 3 of 4: SCEdit's tuners, which make the reference image."""

import runpy
from dataclasses import replace
from pathlib import Path

from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.weights.configs import AttachedConfig

base = runpy.run_path(str(Path(__file__).with_name("tiny_base.py")))

config = replace(
    base["config"],
    stage="scedit",
    components={
        "vae": "runs/vae/export/vae",
        "unet": "runs/base/export/unet",
        "text_encoder": "runs/base/export/text_encoder",
    },
    new={"scedit": AttachedConfig(base["unet"], SCEditConfig(hint_channels=(16, 32, 64)))},
    optimizer=replace(base["config"].optimizer, learning_rate=1e-3),
    num_steps=600,
)
