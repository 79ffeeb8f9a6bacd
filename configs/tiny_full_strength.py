"""A trial of the paper's way of sampling: the embedded second stage in many steps from the LQ image at full noise.

    python train.py --config configs/tiny_full_strength.py --workdir runs/full_strength

It is judged on latents alone.

Needs: what configs/tiny_both.py trains and its records.
Cost: 12 minutes on two CPU cores, for 240 steps of 8 crops.
Result: LPIPS 0.488 in 20 steps, where the embedded cascade then had 0.280 in one, on 20 `light` tiles. Not shipped.
"""

from dataclasses import replace

from cassr_jax.config import LossConfig
from cassr_jax.config_files import sibling

config = sibling(__file__, "tiny_both.py").config

config = replace(
    config,
    components=config.components
    | {"controlnet": "runs/both/export/controlnet", "multiple_attention": "runs/both/export/multiple_attention"},
    loss=LossConfig(snr_gamma=5.0, start="lq", start_fraction=0.125, start_timestep=999),
    optimizer=replace(config.optimizer, decay="cosine"),
    batch_size=8,
    num_steps=240,
    save_every=80,
)
