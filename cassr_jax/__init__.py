"""CasSR in JAX/Flax: cascaded real-world image super-resolution with Stable Diffusion.

import cassr_jax
cassr = cassr_jax.load("tiny")
sharp = cassr.upscale(image)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cassr_jax.cascade import CasSR as CasSR
    from cassr_jax.loading import load as load

__all__ = ["CasSR", "load"]


def __getattr__(name: str) -> object:
    # Imported when first used: reading pictures and refusing options need neither JAX nor the networks.
    if name == "load":
        from cassr_jax.loading import load

        return load
    if name == "CasSR":
        from cassr_jax.cascade import CasSR

        return CasSR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
