"""CasSR's own control scheme (arXiv 2403.11451): a ControlNet reads both pictures.

The up blocks attend to its features of each, and its residuals are added to the U-Net.
"""

from cassr_jax.control.interface import ControlScheme
from cassr_jax.models.denoisers import CasSRDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.typing import Modules


def _denoiser(modules: Modules, switches: GuidanceSwitches) -> CasSRDenoiser:
    return CasSRDenoiser(modules["unet"], modules["controlnet"], modules["multiple_attention"], switches)


CONTROL_SCHEME = ControlScheme(
    "cassr",
    networks=("controlnet", "multiple_attention"),
    reads=("lq", "reference"),
    make_denoiser=_denoiser,
    method="the method of CasSR",
    paper="2403.11451",
    switchable=True,
)
