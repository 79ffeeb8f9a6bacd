"""Every part of a training run in two minutes: the stage `cassr` at the narrowest widths, on the pictures of examples/.

    python train.py --config configs/smoke.py --workdir runs/smoke --steps 12
    python sample.py examples/bee.jpg --config runs/smoke

Needs: nothing but the repository. The frozen networks are drawn at random, and the LQ image is its own reference.
Cost: about two minutes on a CPU.
Result: noise instead of pictures, and every file that a run leaves behind (docs/training.md).
"""

from cassr_jax.config import LossConfig, OptimizerConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.sharding.strategies import MeshConfig, Strategy
from cassr_jax.weights.configs import AttachedConfig

unet = UNetConfig(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=8,
    norm_num_groups=4,
)
vae = VAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False)

config = TrainConfig(
    stage="cassr",
    data=DataConfig(path="examples", crop_size=64, preset="light", prefetch=4, num_workers=0),
    new={
        "vae": vae,
        "unet": unet,
        "text_encoder": LearnedContextConfig(num_tokens=2, hidden_size=8),
        "controlnet": AttachedConfig(unet, ControlNetConfig(conditioning_embedding_out_channels=(8, 8, 16))),
        "multiple_attention": unet,
    },
    activation="identity",
    loss=LossConfig(start_fraction=0.5),  # examples of the one step that it samples in
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    strategy=Strategy(MeshConfig(data=1)),  # two examples need no more than one device
    batch_size=2,
    num_steps=12,
    save_every=2,
    log_every=2,
    preview_every=6,
)
