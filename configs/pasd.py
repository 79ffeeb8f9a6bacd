"""PASD on Stable Diffusion 1.5 from its published weights, sampled as its own program does: no training is needed.

    python sample.py photo.jpg --config configs/pasd.py

Needs: Stable Diffusion 1.5, from the hub or from the path in `SD15`, and PASD's weights in `PASD`: the folder
checkpoint-100000 of `pasd`, `pasd_rrdb`, `pasd_light` or `pasd_light_rrdb` (docs/weights.md says where they are).
Cost: a tile of 768 px takes 20 steps, each with and without the prompt; the time was not measured.
Result: none yet: the weights could not be downloaded where this was written. With random weights the networks and the
sampler give what PASD's own classes give (docs/weights.md).
"""

from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.diffusion.schedule import Schedule

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
PASD = "runs/pasd/checkpoint-100000"

cascade = CascadeConfig(
    components={
        "vae": SD15,
        "text_encoder": SD15,
        "tokenizer": SD15,
        "unet": f"{PASD}/unet",
        "controlnet": f"{PASD}/controlnet",
        "pixel_attention": f"{PASD}/unet",
    },
    activation="identity",
    control="pasd",
    schedule=Schedule(timestep_spacing="linspace"),
    sampling=SamplingConfig(
        sampler="unipc",
        num_steps=20,
        guidance_scale=9.0,
        start="lq",
        added_noise_level=900,
        prompt="clean, high-resolution, 8k",
        negative_prompt="blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed",
    ),
    color_fix="wavelet",
    process_size=768,
    tile=768,
)
