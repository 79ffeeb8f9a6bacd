"""Where a result says more than its input holds: a map of what not to trust."""

import numpy as np
from PIL import Image

from cassr_jax.imaging.pixels import shallow
from cassr_jax.imaging.resizing import resized

FULL = 32.0
"""The difference, in levels of 255, at which a colour of the map is at its brightest."""

_REACH = 6
"""The pixels of the input, across, that the map looks at together.

So coarsely seen, the blur, noise and compression of a photograph hardly matter. Where 24 photographs were degraded as
in training, the sharp original itself differs by at most 3 (`camera`) or 7 (`light`) levels in 95 % of places; looked
at over 2 px, by 12 or 18. The original moved by 2 px of the input differs by 27.
"""


def invented(result: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """A map (H, W, 3) uint8 of a result, over a dark grey copy of it.

    Two differences tell where a result is not what was photographed:

    - yellow: detail that is lost when the result is reduced to the input's size and enlarged again. The input could not
      have held it, so the networks have made it up, well or badly.
    - red: the result contradicts the input, in brightness, colour or place, where both are reduced so far that the
      input's own faults do not matter.

    Both are seen at a `_REACH`th of the input's resolution. They are at their brightest from `FULL` levels on.

    Args:
        result: (H, W, 3) uint8 or uint16.
        lr: (h, w, 3) of the same type, the input.
    """
    shown = shallow(result)
    made, given = (image.astype(np.float32) for image in (shown, shallow(lr)))
    (height, width), size = given.shape[:2], made.shape[:2]
    coarse = max(1, height // _REACH), max(1, width // _REACH)
    lost = np.abs(made - resized(resized(made, (height, width)), size)).max(-1)
    off = np.abs(resized(made, coarse) - resized(given, coarse)).max(-1)
    added, wrong = (
        np.clip(resized(plane[..., None], size)[..., 0] / FULL, 0, 1) for plane in (_means(lost, coarse), off)
    )
    dark = shown.mean(-1) / 3
    red, green = np.maximum(added, wrong), np.where(wrong > added, 0, added)
    shares = np.stack([red, green, np.zeros_like(red)], -1)
    return np.rint(dark[..., None] * (1 - red[..., None]) + 255 * shares).clip(0, 255).astype(np.uint8)


def _means(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The means (h, w) of the parts of a plane (H, W)."""
    height, width = size
    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
