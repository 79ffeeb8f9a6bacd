"""Random weights that depend on their name and shape alone, so that torch and JAX are given the same ones."""

import zlib
from collections.abc import Mapping

import numpy as np


def random_state_dict(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights under torch's names and layouts (kernels OIHW, linears (out, in)), float32.

    Kernels are normal with a gain of sqrt(3) over the usual 1 / sqrt(fan_in), which keeps activations at a realistic
    size through deep networks; norms are near one, biases small and never zero.
    """
    result = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if len(shape) > 1:
            value = rng.normal(size=shape) * np.sqrt(3.0 / np.prod(shape[1:]))
        elif name.endswith("weight"):
            value = 1 + 0.1 * rng.normal(size=shape)
        else:
            value = 0.1 * rng.normal(size=shape)
        result[name] = value.astype(np.float32)
    return result
