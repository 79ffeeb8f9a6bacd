"""The embedded model, stage 2 of 4: the U-Net that stays frozen afterwards, and the two contexts that stand for text.

    python train.py --config configs/tiny_base.py --workdir runs/base

The target is v (arXiv 2202.00512), with which a small network keeps its colours at the noisiest timesteps.

Needs: the records of configs/tiny_pairs.py and what configs/tiny_vae.py trains.
Cost: 122 s on one H200, for 4700 steps of 64 crops of 128 px.
Result: the base of both stages. It was not measured by itself.
"""

from cassr_jax.config import LossConfig, OptimizerConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.models.unet import UNetConfig

unet = UNetConfig(
    in_channels=8,
    out_channels=8,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(80, 120, 160),
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=64,
    norm_num_groups=20,
)
schedule = Schedule(prediction_type="v_prediction", timestep_spacing="trailing")

config = TrainConfig(
    stage="base",
    data=DataConfig(path="runs/pairs", crop_size=128, resident=True),
    components={"vae": "runs/vae/export/vae"},
    new={"unet": unet, "text_encoder": LearnedContextConfig(num_tokens=4, hidden_size=64)},
    schedule=schedule,
    loss=LossConfig(snr_gamma=5.0),
    optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=200, decay="cosine"),
    batch_size=64,
    num_steps=4700,
    log_every=200,
    save_every=2000,
    dtype="bfloat16",
)
