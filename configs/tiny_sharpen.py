"""The embedded model, after stage 4: more steps of the second stage, in which the decoded picture counts for more.

    python train.py --config configs/tiny_sharpen.py --workdir runs/sharpen

The picture's perceptual distance counts most.

Needs: what configs/tiny_cassr.py trains, and records with references (docs/tiny.md).
Cost: 75 minutes on two shared CPU cores, for the 302 of its 600 steps that were taken.
Result: LPIPS 0.290 and DISTS 0.267 where stage 4 had 0.298 and 0.274, on 20 `light` tiles that it never saw.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling

config = sibling(__file__, "tiny_cassr.py").config

config = replace(
    config,
    data=replace(config.data, crop_size=128),
    components=config.components
    | {
        "controlnet": "runs/cassr/export/controlnet",
        "multiple_attention": "runs/cassr/export/multiple_attention",
    },
    new={},
    loss=replace(config.loss, start_fraction=0.875, image_weight=10.0, perceptual_weight=4.0),
    optimizer=replace(config.optimizer, learning_rate=2e-4, warmup_steps=20, ema_decay=0.98),
    batch_size=8,
    num_steps=600,
    dtype="float32",
    frozen_dtype="float32",
)
