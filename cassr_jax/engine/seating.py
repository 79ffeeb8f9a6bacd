"""Which devices share the tiles of the pictures, and how many tiles each takes at once."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from jax.sharding import Mesh

from cassr_jax.engine.programs import TILES
from cassr_jax.sharding.mesh import local_devices
from cassr_jax.typing import Device


def seating(platform: str, devices: int, tiles_at_once: int) -> tuple[int, int]:
    """(tiles on each device in one call of a network, tiles in hand that keep every device busy)."""
    at_once = 1 if platform == "cpu" else tiles_at_once  # a CPU gains nothing from more
    return at_once, 4 * devices * at_once


def mesh_of_tiles(devices: int | Sequence[Device] | None) -> Mesh:
    """The devices that share the tiles of the pictures; each holds all weights.

    Raises:
        InputError: there are fewer devices.
    """
    if isinstance(devices, Sequence) and not isinstance(devices, str):  # a word is no list of devices
        return Mesh(np.array(devices), (TILES,))
    return Mesh(np.array(local_devices(cast("int | None", devices))), (TILES,))
