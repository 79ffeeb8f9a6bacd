"""The paper's first stage: Stable Diffusion whose skip connections a CSC-Tuner edits (SCEdit, arXiv 2312.11392)."""

from cassr_jax.first_stage.interface import diffusion_stage
from cassr_jax.models.denoisers import SCEditDenoiser
from cassr_jax.typing import Modules


def _denoiser(modules: Modules) -> SCEditDenoiser:
    return SCEditDenoiser(modules["unet"], modules["scedit"])


FIRST_STAGE = diffusion_stage("scedit", "scedit", "tiny", _denoiser)
