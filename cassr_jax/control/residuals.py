"""A plain ControlNet as the control scheme (arXiv 2302.05543): it reads the reference.

Its residuals are added to the U-Net. With the first stage `identity` the reference is the LQ image.
"""

from cassr_jax.control.interface import ControlScheme
from cassr_jax.models.denoisers import ControlNetDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.typing import Modules


def _denoiser(modules: Modules, switches: GuidanceSwitches) -> ControlNetDenoiser:
    del switches
    return ControlNetDenoiser(modules["unet"], modules["controlnet"])


CONTROL_SCHEME = ControlScheme(
    "residuals",
    networks=("controlnet",),
    reads=("reference",),
    make_denoiser=_denoiser,
    method="Stable Diffusion and a ControlNet",
    paper="2302.05543",
)
