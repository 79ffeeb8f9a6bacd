"""Our first stage on Stable Diffusion 1.5: SCEdit's tuners, which make the reference.

    python train.py --config configs/sd15_scedit.py --workdir runs/sd15_scedit

Needs: photographs in data/train.
Cost: 99 million trained parameters. Parameters, optimizer and gradient take 3.8 GiB of a device, activations come on
top; an example costs 2.8 TFLOP (docs/training.md).
Result: not run yet. configs/paper_scedit.py has the paper's values; here the learning rate is SeeSR's and PASD's.
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
