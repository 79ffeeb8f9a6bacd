"""The embedded model, stage 3 of 4: SCEdit's tuners, which make the reference.

    python train.py --config configs/tiny_scedit.py --workdir runs/scedit

Most examples are the one step that the embedded cascade takes: from the LQ image's latents at timestep 200. Their
decoded picture is judged too, as OSEDiff (arXiv 2406.08177) does for its single step.

Needs: the records of configs/tiny_pairs.py, and what configs/tiny_vae.py and tiny_base.py train.
Cost: 71 s on one H200, for 2000 steps of 16 crops of 192 px.
Result: LPIPS 0.443 where bicubic enlargement has 0.580, on 40 `light` tiles of test photographs.
"""

from dataclasses import replace

from cassr_jax.config import LossConfig
from cassr_jax.config_files import sibling
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.weights.configs import AttachedConfig

base = sibling(__file__, "tiny_base.py")

config = replace(
    base.config,
    stage="scedit",
    # At inference the attention sees the many positions of a large tile.
    data=replace(base.config.data, crop_size=192),
    components={
        "vae": "runs/vae/export/vae",
        "unet": "runs/base/export/unet",
        "text_encoder": "runs/base/export/text_encoder",
    },
    new={"scedit": AttachedConfig(base.unet, SCEditConfig(hint_channels=(32, 64, 96)))},
    loss=LossConfig(snr_gamma=5.0, start_fraction=0.75, image_weight=2.0, perceptual_weight=1.0),
    optimizer=replace(base.config.optimizer, learning_rate=1e-3),
    batch_size=16,
    num_steps=2000,
)
