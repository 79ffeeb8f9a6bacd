"""First stages: the ways to make the reference that guides the second stage, one file each.

A first stage is an object (`interface.FirstStage`) that states its name, the networks it needs and trains, and how it
makes a reference. The rest of the program asks that object. To add one, write its file, name it in `NAMES`, and add any
new network to the table in `cassr_jax.kinds`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cassr_jax.errors import InputError

if TYPE_CHECKING:
    from cassr_jax.first_stage.interface import FirstStage

NAMES = ("scedit", "controlnet", "rrdbnet", "identity")


def first_stage(name: str) -> "FirstStage":
    """The first stage of that name. Only now is its file imported, so `NAMES` can be read without JAX.

    Raises:
        InputError: no first stage has that name.
    """
    if name not in NAMES:
        raise InputError(f"activation is {name!r}, expected one of {', '.join(NAMES)}")
    return import_module(f"{__name__}.{name}").FIRST_STAGE


def all_first_stages() -> list["FirstStage"]:
    """Every first stage, in the order of `NAMES`."""
    return [first_stage(name) for name in NAMES]
