"""The predicate over parameter names that decides what trains.

It splits every tree: gradients, optimizer state and averages exist for the trainable part only.
"""

from collections.abc import Mapping
from typing import TypeVar

from cassr_jax.training.stages import DISCRIMINATOR, stage_named

T = TypeVar("T")


def is_trainable(name: str, stage: str) -> bool:
    """Whether the parameter `kind.path` is trained by `stage`."""
    return name.split(".", 1)[0] in (*stage_named(stage).trains, DISCRIMINATOR)


def partition(params: Mapping[str, T], stage: str) -> tuple[dict[str, T], dict[str, T]]:
    """Splits `params` into (trainable, frozen)."""
    trainable = {name: value for name, value in params.items() if is_trainable(name, stage)}
    return trainable, {name: value for name, value in params.items() if name not in trainable}
