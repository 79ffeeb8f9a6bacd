"""Where a result says more than its input holds: a map of what not to trust."""

import numpy as np
from PIL import Image

from cassr_jax.imaging.pixels import shallow
from cassr_jax.imaging.resizing import resized

FULL = 32.0
"""The difference, in levels of 255, at which a colour of the map is at its brightest."""

_REACH = 4  # px of the input: details are averaged over as much


def invented(result: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """A map (H, W, 3) uint8 of a result, over a dark grey copy of it.

    Reduced to the input's size, a faithful result is the input again. Two differences tell where it is not:

    - yellow: detail that is lost when the result is reduced and enlarged again. The input could not have held it, so
      the networks have made it up, well or badly.
    - red: the reduced result contradicts the input, in brightness, colour or place.

    Both are averaged over some pixels of the input. They are at their brightest from `FULL` levels on.

    Args:
        result: (H, W, 3) uint8 or uint16.
        lr: (h, w, 3) of the same type, the input.
    """
    shown = shallow(result)
    made, given = (image.astype(np.float32) for image in (shown, shallow(lr)))
    reduced = resized(made, given.shape[:2])
    added = _around(np.abs(made - resized(reduced, made.shape[:2])).max(-1), given.shape[:2], made.shape[:2])
    wrong = _around(np.abs(reduced - given).max(-1), given.shape[:2], made.shape[:2])
    dark = shown.mean(-1) / 3
    red, green = np.maximum(added, wrong), np.where(wrong > added, 0, added)
    shares = np.stack([red, green, np.zeros_like(red)], -1)
    return np.rint(dark[..., None] * (1 - red[..., None]) + 255 * shares).clip(0, 255).astype(np.uint8)


def _around(difference: np.ndarray, source: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A difference (h, w) as shares of `FULL`, averaged over `_REACH` px of the input and enlarged to a size."""
    coarse = max(1, source[1] // _REACH), max(1, source[0] // _REACH)
    means = np.asarray(Image.fromarray(difference.astype(np.float32)).resize(coarse, Image.Resampling.BOX))
    return np.clip(resized(means[..., None], size)[..., 0] / FULL, 0, 1)
