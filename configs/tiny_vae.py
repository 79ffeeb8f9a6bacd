"""The embedded model, stage 1 of 4: the autoencoder. Factor 4, so that a few widths suffice for sharp decoding."""

from cassr_jax.config import LossConfig, OptimizerConfig, TrainConfig
from cassr_jax.data.pipeline import DataConfig
from cassr_jax.models.vae import VAEConfig

config = TrainConfig(
    stage="vae",
    data=DataConfig(path="../shared/photos/train", crop_size=64),
    new={
        "vae": VAEConfig(
            block_out_channels=(32, 48, 96),
            layers_per_block=1,
            norm_num_groups=16,
            scaling_factor=1.0,
            mid_block_add_attention=False,
        )
    },
    loss=LossConfig(perceptual_weight=0.5, kl_weight=1e-6, latent_noise=0.05),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, decay="cosine"),
    batch_size=8,
    num_steps=1800,
    save_every=250,
)
