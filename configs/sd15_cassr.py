"""The ControlNet and the multiple attention on Stable Diffusion 1.5, on pairs with references, the paper's settings.

`data/pairs` is what cassr_jax.commands.references makes with the tuner that configs/sd15_scedit.py trained.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.configs import AttachedConfig

scedit = runpy.run_path(str(Path(__file__).with_name("sd15_scedit.py")))["config"]

config = replace(
    scedit,
    stage="cassr",
    data=replace(scedit.data, path="data/pairs"),
    new={"controlnet": AttachedConfig(UNetConfig(), ControlNetConfig()), "multiple_attention": UNetConfig()},
)
