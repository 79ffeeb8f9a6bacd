"""The first stage of the paper's Table 2: Stable Diffusion with a plain ControlNet (arXiv 2302.05543) of its own."""

from cassr_jax.first_stage.interface import diffusion_stage
from cassr_jax.models.denoisers import ControlNetDenoiser
from cassr_jax.typing import Modules


def _denoiser(modules: Modules) -> ControlNetDenoiser:
    return ControlNetDenoiser(modules["unet"], modules["activation_controlnet"])


FIRST_STAGE = diffusion_stage("controlnet", "activation_controlnet", "configs/sd15_controlnet.py", _denoiser)
