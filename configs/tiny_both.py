"""The embedded model, last: the ControlNet and the multiple attention on references of both kinds, SCEdit's own and
Real-ESRGAN's, so that one set of weights serves both activations."""

import runpy
from dataclasses import replace
from pathlib import Path

config = runpy.run_path(str(Path(__file__).with_name("tiny_sharpen.py")))["config"]

config = replace(
    config,
    data=replace(config.data, path="runs/references_both"),
    components=config.components
    | {
        "controlnet": "runs/sharpen/export/controlnet",
        "multiple_attention": "runs/sharpen/export/multiple_attention",
    },
    optimizer=replace(config.optimizer, decay="constant"),
    num_steps=160,
    save_every=40,
    log_every=10,
)
