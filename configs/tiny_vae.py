"""The embedded model, stage 1 of 4: the autoencoder.

    python train.py --config configs/tiny_vae.py --workdir runs/vae

With factor 4 a few widths suffice for sharp decoding, and eight channels preserve texture.

Needs: the records of configs/tiny_pairs.py.
Cost: 91 s on one H200, for 4450 steps of 16 crops of 128 px.
Result: 34.7 dB. Encoding and decoding alone cost 0.055 in LPIPS and 0.082 in DISTS.
"""

from cassr_jax.config import LossConfig, OptimizerConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.models.vae import VAEConfig

config = TrainConfig(
    stage="vae",
    data=DataConfig(path="runs/pairs", crop_size=128, resident=True),
    new={
        "vae": VAEConfig(
            block_out_channels=(32, 64, 128),
            layers_per_block=1,
            latent_channels=8,
            norm_num_groups=16,
            scaling_factor=1.0,
            mid_block_add_attention=False,
        )
    },
    loss=LossConfig(perceptual_weight=1.0, kl_weight=1e-6, latent_noise=0.05),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, decay="cosine"),
    batch_size=16,
    num_steps=4450,
    log_every=200,
    save_every=4000,
)
