"""What trains. One predicate over parameter names splits every tree: gradients, optimizer state and averages exist for
the trainable part only."""

from collections.abc import Mapping
from typing import TypeVar

from cassr_jax.config import Stage

T = TypeVar("T")

# The component (first part of a parameter's name) that each stage trains.
TRAINABLE: dict[Stage, tuple[str, ...]] = {
    "vae": ("vae",),
    "base": ("unet", "text_encoder"),
    "scedit": ("scedit",),
    "controlnet": ("activation_controlnet",),
    "cassr": ("controlnet", "multiple_attention"),
}


# Trains along with any stage, for the stage's sake: it is not exported.
DISCRIMINATOR = "discriminator"


def is_trainable(name: str, stage: Stage) -> bool:
    """Whether the parameter `component.path` is trained by `stage`."""
    return name.split(".", 1)[0] in (*TRAINABLE[stage], DISCRIMINATOR)


def partition(params: Mapping[str, T], stage: Stage) -> tuple[dict[str, T], dict[str, T]]:
    """(trainable, frozen), disjoint, together all of `params`."""
    trainable = {name: value for name, value in params.items() if is_trainable(name, stage)}
    return trainable, {name: value for name, value in params.items() if name not in trainable}
