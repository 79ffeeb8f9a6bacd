"""SCEdit's tuners on Stable Diffusion 1.5, which make the reference image, with the paper's settings.

The paper's learning rate is 5e-4 as printed; 5e-5 is what its peers use: --set optimizer.learning_rate=5e-4
"""

from cassr_jax.config import OptimizerConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.configs import AttachedConfig

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"

config = TrainConfig(
    stage="scedit",
    data=DataConfig(path="data/train", crop_size=512, preset="realesrgan"),
    components={"vae": SD15, "unet": SD15, "text_encoder": SD15, "tokenizer": SD15},
    new={"scedit": AttachedConfig(UNetConfig(), SCEditConfig())},
    optimizer=OptimizerConfig(learning_rate=5e-5),
    prompt="clean, high-resolution",
    batch_size=4,
    num_steps=100_000,
    save_every=500,
    max_lost_steps=1000,
    dtype="bfloat16",
    frozen_dtype="bfloat16",
)
