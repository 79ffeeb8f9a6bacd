"""Another first stage on Stable Diffusion 1.5: a ControlNet instead of SCEdit's tuners.

    python train.py --config configs/sd15_controlnet.py --workdir runs/sd15_controlnet
    python sample.py photo.jpg --config configs/sd15_controlnet.py

Needs: photographs in data/train; for the second command also what configs/sd15_cassr.py trains.
Cost: 361 million trained parameters. Parameters, optimizer and gradient take 8.7 GiB of a device, activations come on
top (docs/training.md).
Result: not run yet.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.configs import AttachedConfig

scedit = sibling(__file__, "sd15_scedit.py").config
sd15 = sibling(__file__, "sd15.py").cascade

config = replace(
    scedit, stage="controlnet", new={"activation_controlnet": AttachedConfig(UNetConfig(), ControlNetConfig())}
)
cascade = replace(
    sd15,
    components=sd15.components | {"activation_controlnet": "runs/sd15_controlnet/export/activation_controlnet"},
    activation="controlnet",
)
