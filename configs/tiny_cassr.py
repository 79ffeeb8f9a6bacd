"""The embedded model, stage 4 of 4: the ControlNet and the multiple attention, on pairs with references.

    python train.py --config configs/tiny_cassr.py --workdir runs/cassr

Most examples are the one step that the embedded cascade takes: from the reference's latents at timestep 200.

Needs: what configs/tiny_scedit.py trains, and 4096 records with its references (docs/tiny.md).
Cost: 146 s on one H200, for 1800 steps of 16 crops of 192 px.
Result: LPIPS 0.298 and DISTS 0.274 where the reference has 0.304 and 0.276, on 20 `light` tiles that it never saw.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.weights.configs import AttachedConfig

base = sibling(__file__, "tiny_base.py")
scedit = sibling(__file__, "tiny_scedit.py").config

config = replace(
    scedit,
    stage="cassr",
    activation="scedit",
    components=scedit.components | {"scedit": "runs/scedit/export/scedit"},
    data=replace(scedit.data, path="runs/references"),
    new={
        "controlnet": AttachedConfig(base.unet, ControlNetConfig(conditioning_embedding_out_channels=(32, 64, 96))),
        "multiple_attention": base.unet,
    },
    loss=replace(scedit.loss, start="reference"),
    optimizer=replace(scedit.optimizer, learning_rate=5e-4),
    num_steps=1800,
)
