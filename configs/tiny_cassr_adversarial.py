"""The adversarial trial's second half: the ControlNet and the multiple attention against a discriminator.

    python train.py --config configs/tiny_cassr_adversarial.py --workdir runs/cassr_adversarial

Needs: the tuners of configs/tiny_scedit_adversarial.py, and records with their references (docs/tiny.md).
Cost: two CPU cores; the time was not recorded. The run that docs/tiny.md reports took 176 steps.
Result: LPIPS 0.324 and DISTS 0.254 where the shipped weights had 0.320 and 0.254, on 43 `light` tiles. Not shipped.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling

tuners = sibling(__file__, "tiny_scedit_adversarial.py").config

config = replace(
    tuners,
    stage="cassr",
    activation="scedit",
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
