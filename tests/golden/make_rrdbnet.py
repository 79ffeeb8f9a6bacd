"""Record what a torch RRDBNet gives with narrow random weights, at each scale: `rrdbnet.npz`.

Run from the repository root with the extra `reference` installed: `python -m tests.golden.make_rrdbnet`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tests.random_weights import random_state_dict

SEED = 0
NARROW = {"num_feat": 8, "num_block": 2, "num_grow_ch": 4}
SCALES = (4, 2, 1)


class DenseBlock(nn.Module):
    def __init__(self, feat: int, grow: int):
        super().__init__()
        for i in range(1, 6):
            self.add_module(f"conv{i}", nn.Conv2d(feat + (i - 1) * grow, grow if i < 5 else feat, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for i in range(1, 5):
            conv = self.get_submodule(f"conv{i}")
            features.append(functional.leaky_relu(conv(torch.cat(features, 1)), 0.2))
        return self.get_submodule("conv5")(torch.cat(features, 1)) * 0.2 + x


class Block(nn.Module):
    def __init__(self, feat: int, grow: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(feat, grow) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x


class TorchRRDBNet(nn.Module):
    """RRDBNet from its description (ESRGAN, arXiv 1809.00219, section 3.1; folded input: Real-ESRGAN, 3.2). NCHW."""

    def __init__(self, *, num_feat: int = 64, num_block: int = 23, num_grow_ch: int = 32, scale: int = 4):
        super().__init__()
        self.fold = nn.PixelUnshuffle(4 // scale)
        self.conv_first = nn.Conv2d(3 * (4 // scale) ** 2, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(Block(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_first(self.fold(x))
        x = x + self.conv_body(self.body(x))
        for conv in (self.conv_up1, self.conv_up2):
            x = functional.leaky_relu(conv(functional.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(functional.leaky_relu(self.conv_hr(x), 0.2))


def torch_rrdbnet(state: dict[str, np.ndarray], images: np.ndarray, **config: int) -> np.ndarray:
    """Images (B, H, W, 3) in [0, 1] through the reference, (B, H', W', 3)."""
    model = TorchRRDBNet(**config).eval()
    model.load_state_dict({name: torch.tensor(value.astype(np.float32)) for name, value in state.items()})
    with torch.no_grad():
        return model(torch.tensor(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


def shapes_of(**config: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in TorchRRDBNet(**config).state_dict().items()}


def main() -> None:
    images = np.random.default_rng(SEED).random((2, 8, 12, 3), np.float32)
    arrays: dict[str, np.ndarray] = {"images": images}
    shapes = {}
    for scale in SCALES:
        shapes[scale] = shapes_of(**NARROW, scale=scale)
        arrays[f"x{scale}"] = torch_rrdbnet(random_state_dict(shapes[scale], SEED), images, **NARROW, scale=scale)
    np.savez_compressed(
        Path(__file__).with_name("rrdbnet.npz"),
        **arrays,
        config=json.dumps(NARROW),
        shapes=json.dumps(shapes),
        seed=SEED,
        versions=json.dumps({"torch": torch.__version__}),
    )


if __name__ == "__main__":
    main()
