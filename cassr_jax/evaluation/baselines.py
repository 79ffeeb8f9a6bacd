"""The sceptic's rows: what costs no second stage and might do as well as one.

A second stage that only softens its reference, or passes it through the autoencoder, or lies between two pictures, can
lower a distance without any knowledge of the LR image. Each of these does one such thing by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import cv2
import jax
import numpy as np

from cassr_jax.imaging import tiling
from cassr_jax.imaging.pixels import to_float, to_uint8
from cassr_jax.models.parameters import Params, merge, select

if TYPE_CHECKING:
    from cassr_jax.cascade import CasSR

BLURRED = "reference, blurred"  # followed by the blur's sigma
AUTOENCODED = "reference through the autoencoder"
MEANS = {
    "mean of bicubic and reference": ("bicubic", "reference"),
    "mean of bicubic and result": ("bicubic", "result"),
    "mean of reference and result": ("reference", "result"),
}
TILE = 1024  # px of a side, a multiple of every autoencoder's factor
# In px. Of 0.3 to 1.0 the first was best on the photographs that chose settings (docs/tiny.md); the second is the
# harder one to beat on a camera's pictures.
SIGMAS = (0.3, 0.5)

Autoencode = Callable[[np.ndarray], np.ndarray]


def names(sigmas: Sequence[float]) -> tuple[str, ...]:
    """What `baselines` makes."""
    return (*(f"{BLURRED} {sigma:g}" for sigma in sigmas), AUTOENCODED, *MEANS)


def baselines(
    pictures: Mapping[str, np.ndarray], autoencode: Autoencode, sigmas: Sequence[float]
) -> dict[str, np.ndarray]:
    """The sceptic's picture for each of `names`.

    Args:
        pictures: bicubic, reference and result, uint8 (H, W, 3) each.
        autoencode: see `make_autoencode`.
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


def blended(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """`share` of `a` and the rest of `b`, as the cascade blends its reference and its result; uint8 (H, W, 3)."""
    return to_uint8(share * to_float(a) + (1 - share) * to_float(b))


def make_autoencode(cassr: "CasSR") -> Autoencode:
    """The cascade's autoencoder alone: a picture encoded and decoded, with no diffusion between.

    A picture of up to `TILE` px a side passes whole, a larger one in tiles, one after the other.
    """
    graphdef, params = cassr.networks.graphdefs["vae"], cassr.networks.params
    factor = cassr.networks.configs["vae"].factor

    @partial(jax.jit, static_argnames="tiles")
    def run(params: Params, image: jax.Array, *, tiles: tiling.Grid) -> jax.Array:
        vae = merge(graphdef, select(params, "vae"))
        decoded = jax.lax.map(lambda cut: vae.decode(vae.encode(cut[None]))[0], tiling.gather(image, tiles))
        return tiling.merge(decoded.astype(np.float32), tiles)

    def autoencode(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        rows, columns = (-(-side // factor) * factor for side in (height, width))
        side = min(TILE, max(rows, columns))
        image = np.pad(to_float(picture), ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")[None]
        decoded = run(params, image, tiles=tiling.grid(rows, columns, side, side // 4))
        return to_uint8(np.asarray(decoded)[0, :height, :width])

    return autoencode
