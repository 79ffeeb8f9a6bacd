"""AlexNet and VGG16 a few channels wide, with random weights that torch and JAX share."""

import numpy as np

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
