"""The embedded model's decoder: it starts at the reference, and learns to correct it by the latents and both pictures.

    python train.py --config configs/tiny_fusion.py --workdir runs/fusion

The second stage is frozen: its one step from the reference gives the latents, and the decoder's picture is compared
with the target.

Needs: the embedded networks, and pairs with Real-ESRGAN's references (`python benchmarks/tiny_second_stage.py` makes
them, and runs this).
Cost: 1.25 s of CPU time a step of 8 windows of 64 px, half of it in VGG16.
Result: none yet.
"""

from dataclasses import replace

from cassr_jax.config import LossConfig, OptimizerConfig
from cassr_jax.config_files import sibling
from cassr_jax.models.guided_decoder import GuidedDecoderConfig

config = sibling(__file__, "tiny_cassr.py").config
_FROZEN = ("vae", "unet", "text_encoder", "controlnet", "multiple_attention")

config = replace(
    config,
    stage="fusion",
    activation="rrdbnet",
    data=replace(config.data, path="runs/fusion_pairs", crop_size=64, resident=True),
    components={kind: f"cassr_jax/assets/tiny/{kind}" for kind in _FROZEN},
    new={"fusion": GuidedDecoderConfig(8, factor=4, features=64, num_blocks=8, pixel_features=32, num_pixel_blocks=2)},
    loss=LossConfig(start="reference", start_fraction=1.0, image_weight=1.0, perceptual_weight=1.0),
    optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=30, decay="cosine", ema_decay=0.99),
    batch_size=8,
    num_steps=2000,
    save_every=50,
    log_every=10,
    dtype="float32",
    frozen_dtype="float32",
)
