"""The second stage: the networks it needs, and how they form its denoiser."""

from cassr_jax.models.denoisers import CasSRDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.typing import Modules

STABLE_DIFFUSION = ("vae", "unet", "text_encoder")
TRAINS = ("controlnet", "multiple_attention")
NETWORKS = (*STABLE_DIFFUSION, *TRAINS)
FUSION = "fusion"  # if a cascade has this network, it guides the decoder of the second stage
TAESD = "taesd"  # if a cascade has this network, it decodes previews, and the result if asked to
OPTIONAL = (FUSION, TAESD)


def make_denoiser(modules: Modules, switches: GuidanceSwitches) -> CasSRDenoiser:
    """The denoiser that reads the LQ image and the reference; `switches` turn parts of it off for an ablation."""
    return CasSRDenoiser(modules["unet"], modules["controlnet"], modules["multiple_attention"], switches)
