"""The embedded cascade, from the exports of its four training stages; `python -m cassr_jax.bundle` gathers it."""

from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.diffusion.schedule import Schedule

# The first stage as it made the references of the training pairs; the second starts lower. docs/tiny.md says why.
activation_sampling = SamplingConfig(sampler="dpmpp_2m", num_steps=4, guidance_scale=1.0, strength=0.4)
sampling = SamplingConfig(sampler="dpmpp_2m", num_steps=4, guidance_scale=1.0, strength=0.25)

cascade = CascadeConfig(
    components={
        "vae": "runs/vae/export/vae",
        "unet": "runs/base/export/unet",
        "text_encoder": "runs/base/export/text_encoder",
        "scedit": "runs/scedit/export/scedit",
        "controlnet": "runs/cassr/export/controlnet",
        "multiple_attention": "runs/cassr/export/multiple_attention",
        "rrdbnet": "realesrgan-x4plus",
    },
    schedule=Schedule(prediction_type="v_prediction", timestep_spacing="trailing"),
    activation_sampling=activation_sampling,
    sampling=sampling,
    tile=256,
)
