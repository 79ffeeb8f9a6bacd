"""The sceptic's rows: what costs no second stage and might do as well as one.

A second stage that only softens its reference, or passes it through the autoencoder, or lies between two pictures, can
lower a distance without any knowledge of the LR image. Each of these does one such thing by itself.
"""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from cassr_jax.imaging.pixels import blended

BLURRED = "reference, blurred"  # followed by the blur's sigma
AUTOENCODED = "reference through the autoencoder"
ALONE = "second stage alone"  # where the result has a share of the reference
MEANS = {
    "mean of bicubic and reference": ("bicubic", "reference"),
    "mean of bicubic and result": ("bicubic", "result"),
    "mean of reference and result": ("reference", "result"),
}
# In px. Of 0.3 to 1.0 the first was best on the photographs that chose settings (docs/tiny.md); the second is the
# harder one to beat on a camera's pictures.
SIGMAS = (0.3, 0.5)

Autoencode = Callable[[np.ndarray], np.ndarray]
"""A picture (H, W, 3) uint8, encoded and decoded again."""


def names(sigmas: Sequence[float]) -> tuple[str, ...]:
    """The rows that may stand beside a cascade's own."""
    return (ALONE, *(f"{BLURRED} {sigma:g}" for sigma in sigmas), AUTOENCODED, *MEANS)


def baselines(
    pictures: Mapping[str, np.ndarray], autoencode: Autoencode, sigmas: Sequence[float]
) -> dict[str, np.ndarray]:
    """The sceptic's pictures: the reference softened in several ways, and the means of any two pictures.

    Args:
        pictures: bicubic, reference and result, uint8 (H, W, 3) each.
        autoencode: the cascade's autoencoder.
        sigmas: of the blurs, in px of the output.
    """
    reference = pictures["reference"]
    return {
        **{f"{BLURRED} {sigma:g}": blurred(reference, sigma) for sigma in sigmas},
        AUTOENCODED: autoencode(reference),
        **{name: blended(pictures[a], pictures[b], 0.5) for name, (a, b) in MEANS.items()},
    }


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 (H, W, 3) under a Gaussian of `sigma` px, computed in float32 and rounded once; borders are mirrored."""
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.rint(smooth).clip(0, 255).astype(np.uint8)
