"""Another first stage on Stable Diffusion 1.5: a ControlNet in the place of SCEdit's tuners.

    python train.py --config configs/sd15_controlnet.py --workdir runs/sd15_controlnet

Needs: photographs in data/train. To sample with it, name WORKDIR/export/activation_controlnet as component
`activation_controlnet` of a cascade, as configs/paper_cassr.py does, and set `activation` to `controlnet`.
Cost: 361 million trained parameters. Parameters, optimizer and gradient take 8.7 GiB of a device, activations come on
top (docs/training.md).
Result: not run yet.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.configs import AttachedConfig

scedit = runpy.run_path(str(Path(__file__).with_name("sd15_scedit.py")))["config"]

config = replace(
    scedit, stage="controlnet", new={"activation_controlnet": AttachedConfig(UNetConfig(), ControlNetConfig())}
)
