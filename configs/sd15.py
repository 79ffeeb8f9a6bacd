"""CasSR on Stable Diffusion 1.5, sampled as we read the paper: 50 steps a stage, guidance 5.5.

    python sample.py photo.jpg --config configs/sd15.py

Needs: Stable Diffusion 1.5, from the hub or from the path in `SD15`, and what configs/sd15_scedit.py and
configs/sd15_cassr.py train. With `--activation rrdbnet` Real-ESRGAN makes the reference, and no tuner is needed.
Cost: a tile of 512 px takes 50 steps a stage, each with and without the prompt. By the forward counts of
docs/training.md that is 0.25 PFLOP; the time was not measured.
Result: none yet, as no weights have been trained. docs/paper.md says where each setting comes from.
"""

from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.diffusion.schedule import Schedule

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"

sampling = SamplingConfig(
    sampler="ddim",
    num_steps=50,
    guidance_scale=5.5,
    start="lq",
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
