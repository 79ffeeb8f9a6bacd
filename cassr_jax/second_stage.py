"""The second stage: Stable Diffusion, a control scheme that shows it the pictures, and perhaps a fusion."""

from functools import partial

from cassr_jax.control import control_scheme
from cassr_jax.control.interface import ControlScheme
from cassr_jax.errors import InputError
from cassr_jax.models.denoisers import MakeDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches

STABLE_DIFFUSION = ("vae", "unet", "text_encoder")
FUSION = "fusion"  # if a cascade has this network, it guides the decoder of the second stage
TAESD = "taesd"  # if a cascade has this network, it decodes previews, and the result if asked to
OPTIONAL = (FUSION, TAESD)


def networks_of(control: str) -> tuple[str, ...]:
    """The kinds of network that a second stage needs."""
    return (*STABLE_DIFFUSION, *control_scheme(control).networks)


def denoiser_maker(scheme: ControlScheme, switches: GuidanceSwitches) -> MakeDenoiser:
    """What builds the denoiser of a second stage.

    Raises:
        InputError: something is switched off that this control scheme does not have.
    """
    if switches != GuidanceSwitches() and not scheme.switchable:
        raise InputError(f"switches are {switches}, expected none off: control {scheme.name} has nothing to switch off")
    return partial(scheme.make_denoiser, switches=switches)
