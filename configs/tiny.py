"""The embedded cascade, from the exports of its training stages.

    python -m cassr_jax.commands.bundle --config configs/tiny.py --output cassr_jax/assets/tiny --dtype float16

Needs: what configs/tiny_vae.py, tiny_base.py, tiny_scedit.py and tiny_both.py train.
Cost: 32 MB in float16.
Result: `--config tiny`. docs/tiny.md has its figures.
"""

from dataclasses import replace

from cassr_jax.config import CascadeConfig, FirstStageConfig, SamplingConfig
from cassr_jax.diffusion.schedule import Schedule

# One step a stage, at the timestep that most training examples had. docs/tiny.md says why.
# The empty prompt is also the negative prompt: the learned contexts know no other.
activation_sampling = SamplingConfig(sampler="ddim", num_steps=1, guidance_scale=1.0, strength=0.2, negative_prompt="")
sampling = replace(activation_sampling, start="reference")

cascade = CascadeConfig(
    components={
        "vae": "runs/vae/export/vae",
        "unet": "runs/base/export/unet",
        "text_encoder": "runs/base/export/text_encoder",
        "scedit": "runs/scedit/export/scedit",
        "controlnet": "runs/both/export/controlnet",
        "multiple_attention": "runs/both/export/multiple_attention",
        "rrdbnet": "realesrgan-x4plus",
    },
    activation="rrdbnet",
    schedule=Schedule(prediction_type="v_prediction", timestep_spacing="trailing"),
    activation_sampling=activation_sampling,
    sampling=sampling,
    first_stages={"rrdbnet": FirstStageConfig(color_fix="wavelet", reference_weight=0.75)},
    tile=256,
)
