"""The embedded model's second stage behind its fused decoder: the ControlNet and the multiple attention once more.

    python train.py --config configs/tiny_second.py --workdir runs/second

The second stage no longer has to carry what the fusion takes directly from the pictures; it learns the rest.

Needs: what configs/tiny_fusion.py trains, and its records.
Cost: not known yet.
Result: none yet, it has not been run.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling

config = sibling(__file__, "tiny_fusion.py").config

config = replace(
    config,
    stage="cassr",
    components=config.components | {"fusion": "runs/fusion/export/fusion", "rrdbnet": "realesrgan-x4plus"},
    new={},
    loss=replace(config.loss, image_weight=10.0, snr_gamma=5.0),
)
