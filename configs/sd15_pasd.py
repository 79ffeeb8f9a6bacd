"""PASD as the second stage on Stable Diffusion 1.5, trained under CasSR's settings, for a comparison on equal terms.

    python train.py --config configs/sd15_pasd.py --workdir runs/sd15_pasd

Its ControlNet reads the LQ image alone. The loss is PASD's own: the denoising loss, and the L1 of the pictures that its
hint network gives at three resolutions. A new attention starts without effect; PASD draws its last layer at random.

Needs: in data/pairs the records of configs/sd15_cassr.py, whose references it does not read.
Cost: 610 million trained parameters (361 of the ControlNet, 248 of the attention); memory and time were not measured.
Result: not run yet.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.pixel_attention import PixelAttentionConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.configs import AttachedConfig

cassr = sibling(__file__, "sd15_cassr.py").config

config = replace(
    cassr,
    stage="pasd",
    activation="identity",
    new={
        "controlnet": AttachedConfig(UNetConfig(), ControlNetConfig(return_rgbs=True)),
        "pixel_attention": AttachedConfig(UNetConfig(), PixelAttentionConfig()),
    },
    loss=replace(cassr.loss, rgb_weight=1.0),
)
