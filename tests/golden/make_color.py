"""Record what StableSR's two colour fixes give on small pictures, in torch: `color.npz`.

Run from the repository root with the extra `reference` installed: `python -m tests.golden.make_color`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

SEED = 0
SHAPES = {"wide": (2, 17, 33, 3), "square": (1, 40, 40, 3), "narrow": (1, 1, 40, 3), "tiny": (1, 3, 2, 3)}
"""The last two are smaller than the widest blur reaches (16 pixels to each side)."""


def pictures(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(B, H, W, 3) float32 in [-1, 1]: a restored picture and its source, alike but of other colours."""
    rng = np.random.default_rng([SEED, *SHAPES[name]])
    image = rng.uniform(-1, 1, SHAPES[name])
    source = np.clip(0.4 * image + 0.2 * rng.uniform(-1, 1, SHAPES[name]) + (0.3, -0.2, 0.1), -1, 1)
    return image.astype(np.float32), source.astype(np.float32)


def torch_adain(image: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W): normalised by its own moments over H and W, then given the source's; torch's unbiased variance."""

    def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = x.flatten(2)
        std = torch.sqrt(flat.var(dim=2) + 1e-5)
        return flat.mean(dim=2)[..., None, None], std[..., None, None]

    mean, std = moments(image)
    source_mean, source_std = moments(source)
    return (image - mean) / std * source_std + source_mean


def torch_wavelet(image: torch.Tensor, source: torch.Tensor, levels: int = 5) -> torch.Tensor:
    """(B, C, H, W): what five dilated 3x3 binomial blurs take from the image, upon what they leave of the source."""

    def split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tap = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype)
        kernel = torch.outer(tap, tap).expand(x.shape[1], 1, 3, 3)
        high = torch.zeros_like(x)
        for level in range(levels):
            reach = 2**level
            low = F.conv2d(F.pad(x, [reach] * 4, mode="replicate"), kernel, groups=x.shape[1], dilation=reach)
            high = high + x - low
            x = low
        return high, x

    return split(image)[0] + split(source)[1]


def on_nhwc(function, image: np.ndarray, source: np.ndarray) -> np.ndarray:
    to_torch = [torch.from_numpy(x).permute(0, 3, 1, 2) for x in (image, source)]
    return function(*to_torch).permute(0, 2, 3, 1).numpy()


def main() -> None:
    arrays = {}
    for name in SHAPES:
        image, source = pictures(name)
        arrays[f"{name}_adain"] = on_nhwc(torch_adain, image, source)
        arrays[f"{name}_wavelet"] = on_nhwc(torch_wavelet, image, source)
    np.savez_compressed(
        Path(__file__).with_name("color.npz"),
        **arrays,
        seed=SEED,
        versions=json.dumps({"torch": torch.__version__, "numpy": np.__version__}),
    )


if __name__ == "__main__":
    main()
