"""The sceptic's rows: pictures that need no second stage and might be as good as its result.

A second stage can lower a distance without learning anything from the LQ image: by softening its reference, by passing
it through the autoencoder, or by landing between two other pictures. Each row here does one of these things alone.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cassr_jax.data.degradation import gaussian_blur
from cassr_jax.imaging.pixels import blended

BLURRED = "reference, blurred"  # followed by the blur's sigma
AUTOENCODED = "reference through the autoencoder"
ALONE = "second stage alone"  # a row where the result is a blend with the reference
MEANS = {
    "mean of bicubic and reference": ("bicubic", "reference"),
    "mean of bicubic and result": ("bicubic", "result"),
    "mean of reference and result": ("reference", "result"),
}
# In px. On the photographs that chose settings (docs/tiny.md), 0.3 was the best of 0.3 to 1.0; on a camera's pictures
# 0.5 is harder to beat.
SIGMAS = (0.3, 0.5)

Autoencode = Callable[[np.ndarray], np.ndarray]
"""A picture, uint8 (H, W, 3) -> the same picture, encoded and decoded."""


def names(sigmas: Sequence[float]) -> tuple[str, ...]:
    """The names of the rows that may stand beside a cascade's own."""
    return (ALONE, *(f"{BLURRED} {sigma:g}" for sigma in sigmas), AUTOENCODED, *MEANS)


def baselines(
    pictures: Mapping[str, np.ndarray], autoencode: Autoencode, sigmas: Sequence[float]
) -> dict[str, np.ndarray]:
    """Make the sceptic's pictures: the reference softened in several ways, and the mean of any two pictures.

    Args:
        pictures: bicubic, reference and result, uint8 (H, W, 3) each.
        autoencode: the cascade's autoencoder.
        sigmas: the standard deviations of the blurs, in px of the output.
    """
    reference = pictures["reference"]
    return {
        **{f"{BLURRED} {sigma:g}": blurred(reference, sigma) for sigma in sigmas},
        AUTOENCODED: autoencode(reference),
        **{name: blended(pictures[a], pictures[b], 0.5) for name, (a, b) in MEANS.items()},
    }


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur uint8 (H, W, 3) with a Gaussian of `sigma` px, in float32 and rounded once; borders are mirrored."""
    return np.rint(gaussian_blur(picture.astype(np.float32), sigma)).clip(0, 255).astype(np.uint8)
