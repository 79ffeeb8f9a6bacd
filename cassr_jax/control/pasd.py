"""PASD as the control scheme (arXiv 2308.14469): a ControlNet reads the LQ image.

Its residuals are added to the U-Net, and the up blocks attend to them too.
"""

from cassr_jax.control.interface import ControlScheme
from cassr_jax.models.denoisers import PASDDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.typing import Modules


def _denoiser(modules: Modules, switches: GuidanceSwitches) -> PASDDenoiser:
    del switches
    return PASDDenoiser(modules["unet"], modules["controlnet"], modules["pixel_attention"])


CONTROL_SCHEME = ControlScheme(
    "pasd",
    networks=("controlnet", "pixel_attention"),
    reads=("lq",),
    make_denoiser=_denoiser,
    method="the method of PASD",
    paper="2308.14469",
)
