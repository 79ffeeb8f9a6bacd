"""AlexNet and VGG16 a few channels wide, with random weights that torch and JAX share."""

from typing import Any

import numpy as np

from cassr_jax.evaluation import measures
from tests.random_weights import random_state_dict

ALEXNET_WIDTHS, VGG_WIDTHS = (4, 6, 8, 6, 4), (4, 6, 8, 10, 10)
ALEXNET_KERNELS, VGG_BLOCKS = (11, 5, 3, 3, 3), (2, 2, 3, 3, 3)


def narrow_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """Shapes in torch's layout of a narrow backbone with heads, and with alpha and beta for VGG16."""
    if net == "alexnet":
        layers = list(zip(ALEXNET_WIDTHS, ALEXNET_KERNELS, strict=True))
        widths = ALEXNET_WIDTHS
    else:
        layers = [(width, 3) for width, count in zip(VGG_WIDTHS, VGG_BLOCKS, strict=True) for _ in range(count)]
        widths = VGG_WIDTHS
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for i, (width, kernel) in enumerate(layers):
        shapes[f"conv.{i}.weight"] = (width, channels, kernel, kernel)
        shapes[f"conv.{i}.bias"] = (width,)
        channels = width
    shapes |= {f"head.{i}": (width,) for i, width in enumerate(widths)}
    if net == "vgg16":
        shapes |= {"alpha": (3 + sum(widths),), "beta": (3 + sum(widths),)}
    return shapes


def narrow_weights(net: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Kernels OIHW; heads, alpha and beta positive."""
    weights = random_state_dict(narrow_shapes(net), seed)
    return {name: np.abs(value) if not name.startswith("conv") else value for name, value in weights.items()}


def narrow_params(net: str, seed: int = 0) -> dict[str, np.ndarray]:
    """`narrow_weights` as JAX has them: kernels HWIO, under the names of `cassr_jax.weights.perceptual`."""
    return {
        name.replace("weight", "kernel"): value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        for name, value in narrow_weights(net, seed).items()
    }


def install_narrow_networks(monkeypatch: Any) -> None:
    """Narrow networks and plain statistics where the evaluation looks for the published ones."""
    monkeypatch.setattr(measures, "lpips_weights", narrow_params)
    monkeypatch.setattr(measures, "dists_weights", lambda: narrow_params("vgg16"))
    monkeypatch.setattr(measures, "pristine_statistics", lambda: (np.zeros(36), np.eye(36)))
