"""The trial's second half: the ControlNet and the multiple attention against a discriminator, on references of the
tuners of `tiny_scedit_adversarial.py`."""

import runpy
from dataclasses import replace
from pathlib import Path

tuners = runpy.run_path(str(Path(__file__).with_name("tiny_scedit_adversarial.py")))["config"]

config = replace(
    tuners,
    stage="cassr",
    data=replace(tuners.data, path="runs/references_160"),
    components=tuners.components
    | {
        "scedit": "runs/scedit_adversarial/export/scedit",
        "controlnet": "runs/sharpen/export/controlnet",
        "multiple_attention": "runs/sharpen/export/multiple_attention",
    },
    loss=replace(tuners.loss, start="reference"),
    num_steps=160,
)
