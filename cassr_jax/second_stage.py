"""The second stage: which networks it needs, and how they are put together."""

from collections.abc import Mapping
from typing import Any

from cassr_jax.models.denoisers import CasSRDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches

STABLE_DIFFUSION = ("vae", "unet", "text_encoder")
TRAINS = ("controlnet", "multiple_attention")
NETWORKS = (*STABLE_DIFFUSION, *TRAINS)
FUSION = "fusion"  # where a cascade has one, the second stage's pictures are decoded through it


def make_denoiser(modules: Mapping[str, Any], switches: GuidanceSwitches) -> CasSRDenoiser:
    """The denoiser that reads the LQ image and the reference; `switches` leave parts of it out for an ablation."""
    return CasSRDenoiser(modules["unet"], modules["controlnet"], modules["multiple_attention"], switches)
