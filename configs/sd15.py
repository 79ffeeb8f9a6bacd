"""CasSR on Stable Diffusion 1.5 with the paper's settings: python sample.py photo.jpg --config configs/sd15.py

Stable Diffusion comes from the hub, or from a folder if its path is put into `SD15`. The tuner, the ControlNet and the
multiple attention are what `train.py` exports from configs/sd15_scedit.py and configs/sd15_cassr.py; with
`--activation rrdbnet` Real-ESRGAN makes the reference instead, and no tuner is needed.
"""

from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.diffusion.schedule import Schedule

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"

sampling = SamplingConfig(
    sampler="ddim",
    num_steps=50,
    guidance_scale=5.5,
    start="lr",
    prompt="clean, high-resolution",
    negative_prompt="dotted, noise, blur, lowres, smooth",
)

cascade = CascadeConfig(
    components={
        "vae": SD15,
        "unet": SD15,
        "text_encoder": SD15,
        "tokenizer": SD15,
        "scedit": "runs/sd15_scedit/export/scedit",
        "rrdbnet": "realesrgan-x4plus",
        "controlnet": "runs/sd15_cassr/export/controlnet",
        "multiple_attention": "runs/sd15_cassr/export/multiple_attention",
    },
    activation="scedit",
    schedule=Schedule(timestep_spacing="leading", steps_offset=1),
    activation_sampling=sampling,
    sampling=sampling,
    color_fix="wavelet",
    tile=512,
)
