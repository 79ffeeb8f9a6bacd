"""A trial after stage 3 of the embedded model: SCEdit's tuners against a discriminator.

    python train.py --config configs/tiny_scedit_adversarial.py --workdir runs/scedit_adversarial

The discriminator asks for texture where the other losses are content with its mean.

Needs: what configs/tiny_scedit.py trains, and records of 160 px (docs/tiny.md).
Cost: 150 steps of 8 crops on two CPU cores; the time was not recorded.
Result: LPIPS 0.322 with the shipped second stage, 0.320 with the shipped tuners, on 43 `light` tiles. Not shipped.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling
from cassr_jax.models.discriminator import DiscriminatorConfig

config = sibling(__file__, "tiny_scedit.py").config

config = replace(
    config,
    data=replace(config.data, path="runs/pairs_160", crop_size=128),
    components=config.components | {"scedit": "runs/scedit/export/scedit"},
    new={"discriminator": DiscriminatorConfig()},
    loss=replace(config.loss, start_fraction=0.875, image_weight=10.0, perceptual_weight=4.0, adversarial_weight=0.1),
    optimizer=replace(config.optimizer, learning_rate=2e-4, warmup_steps=20, decay="constant", ema_decay=0.98),
    batch_size=8,
    num_steps=150,
    save_every=40,
    log_every=10,
    dtype="float32",
    frozen_dtype="float32",
)
