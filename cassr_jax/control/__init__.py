"""Control schemes: the ways in which the second stage's Stable Diffusion sees the pictures, one file each.

A control scheme is an object (`interface.ControlScheme`) that states its name, its networks, the pictures that they
read and how all form a denoiser. Cascades, training, export and evaluation ask that object. To add one, write its file,
name it in `NAMES`, and add any new network to the table in `cassr_jax.kinds`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cassr_jax.errors import InputError

if TYPE_CHECKING:
    from cassr_jax.control.interface import ControlScheme

NAMES = ("cassr", "pasd", "residuals")


def control_scheme(name: str) -> "ControlScheme":
    """The control scheme of that name. Only now is its file imported, so `NAMES` can be read without JAX.

    Raises:
        InputError: no control scheme has that name.
    """
    if name not in NAMES:
        raise InputError(f"control is {name!r}, expected one of {', '.join(NAMES)}")
    return import_module(f"{__name__}.{name}").CONTROL_SCHEME


def all_control_schemes() -> list["ControlScheme"]:
    """Every control scheme, in the order of `NAMES`."""
    return [control_scheme(name) for name in NAMES]
