"""Stable Diffusion 1.5 with the ControlNet "tile" and Real-ESRGAN: published weights alone, no training.

    python sample.py photo.jpg --config configs/sd15_tile.py

Real-ESRGAN's picture is the reference: the ControlNet reads it, and the run starts from it, at a third of the schedule.
A higher --strength invents more, and so does a lower --fidelity.

Needs: Stable Diffusion 1.5 (CreativeML Open RAIL-M) and lllyasviel/control_v11f1e_sd15_tile (OpenRAIL), from the hub or
from the paths in `SD15` and `TILE`. Real-ESRGAN is installed with this program.
Cost: a tile of 512 px takes 12 steps, each with and without the prompt; the time was not measured.
Result: none yet: the weights could not be downloaded where this was written.
"""

from cassr_jax.config import CascadeConfig, SamplingConfig

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
TILE = "lllyasviel/control_v11f1e_sd15_tile"

cascade = CascadeConfig(
    components={
        "vae": SD15,
        "unet": SD15,
        "text_encoder": SD15,
        "tokenizer": SD15,
        "controlnet": TILE,
        "rrdbnet": "realesrgan-x4plus",
    },
    activation="rrdbnet",
    control="residuals",
    sampling=SamplingConfig(
        sampler="dpmpp_2m",
        num_steps=12,
        guidance_scale=7.0,
        start="reference",
        strength=0.35,
        prompt="best quality",
        negative_prompt="blur, lowres, bad anatomy, bad hands, cropped, worst quality",
    ),
    color_fix="wavelet",
    process_size=512,
    tile=512,
)
