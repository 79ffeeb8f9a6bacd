"""What an evaluation restores pictures with: any function of this kind, a cascade or another program."""

from collections.abc import Callable, Mapping

import numpy as np

KINDS = ("bicubic", "reference", "result")
"""The pictures that a cascade makes: the enlarged input, the first stage's picture, the second stage's."""

Restore = Callable[..., Mapping[str, np.ndarray]]
"""(picture (h, w, 3), seed, scale, perhaps `prompt=`) -> pictures (H, W, 3) by program; all uint8."""
