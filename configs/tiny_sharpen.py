"""The embedded model, after stage 4: some more steps of the ControlNet and the multiple attention, in which the decoded
picture counts for more and its perceptual distance for most. The embedded weights came from step 302."""

import runpy
from dataclasses import replace
from pathlib import Path

config = runpy.run_path(str(Path(__file__).with_name("tiny_cassr.py")))["config"]

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
