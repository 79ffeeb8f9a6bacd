"""The embedded model's fusion: the decoder sees the LQ image and the reference, and learns what to trust in them.

    python train.py --config configs/tiny_fusion.py --workdir runs/fusion

The second stage is frozen: its one step from the reference is decoded through the fusion, and the picture is compared
with the target.

Needs: the embedded networks, and pairs with Real-ESRGAN's references (`python benchmarks/tiny_second_stage.py` makes
them, and runs this).
Cost: 2.6 s a step of 8 crops of 96 px on two CPU cores.
Result: none yet; 50 steps changed next to nothing. docs/tiny.md has the figures.
"""

from dataclasses import replace

from cassr_jax.config import LossConfig, OptimizerConfig
from cassr_jax.config_files import sibling
from cassr_jax.models.fusion import FusionConfig

config = sibling(__file__, "tiny_cassr.py").config
_FROZEN = ("vae", "unet", "text_encoder", "controlnet", "multiple_attention")

config = replace(
    config,
    stage="fusion",
    activation="rrdbnet",
    data=replace(config.data, path="runs/fusion_pairs", crop_size=96),
    components={kind: f"cassr_jax/assets/tiny/{kind}" for kind in _FROZEN},
    new={"fusion": FusionConfig((32, 64, 128), strides=(1, 2, 4), num_guides=2)},
    loss=LossConfig(start="reference", start_fraction=1.0, image_weight=1.0, perceptual_weight=1.0),
    optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=30, decay="cosine", ema_decay=0.99),
    batch_size=8,
    num_steps=600,
    save_every=50,
    log_every=20,
    dtype="float32",
    frozen_dtype="float32",
)
