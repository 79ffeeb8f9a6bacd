"""Our second stage on Stable Diffusion 1.5: the ControlNet and the multiple attention.

    python train.py --config configs/sd15_cassr.py --workdir runs/sd15_cassr

Needs: what configs/sd15_scedit.py trains, and in data/pairs the references that cassr_jax.commands.references makes
with it (docs/training.md).
Cost: 409 million trained parameters. Parameters, optimizer and gradient take 9.6 GiB of a device, activations come on
top; an example costs 3.7 TFLOP on records with latents, 4.9 TFLOP on others (docs/training.md).
Result: not run yet. configs/paper_cassr.py has the paper's values.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.configs import AttachedConfig

scedit = sibling(__file__, "sd15_scedit.py").config

config = replace(
    scedit,
    stage="cassr",
    activation="scedit",
    data=replace(scedit.data, path="data/pairs"),
    components=scedit.components | {"scedit": "runs/sd15_scedit/export/scedit"},
    new={"controlnet": AttachedConfig(UNetConfig(), ControlNetConfig()), "multiple_attention": UNetConfig()},
)
