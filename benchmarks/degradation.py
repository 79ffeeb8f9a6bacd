#!/usr/bin/env python
"""Measure how many pairs are degraded per second on one core, beside the same pipeline in torch.

    python benchmarks/degradation.py --picture examples/bridge.jpg

Both pipelines take the same crops in turn, with one thread each. Only the thread's own CPU time counts, so other
programs disturb the result little. The torch pipeline is written here after the description of Real-ESRGAN's (arXiv
2107.10833), with the operations that training programs use: depthwise convolutions with kernels of 21 x 21,
`interpolate`, `torch.poisson`. It is spared two things that make the published code slower still: the 51 x 51 window of
the sharpening is applied in two passes of 51, and JPEG is a codec in C, not an imitation in torch. It needs the extra
`reference`; without torch, it is left out.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from cassr_jax.data.crops import at_least
from cassr_jax.data.degradation import GRAY_NOISE_PROB, degrade
from cassr_jax.data.kernels import SIZES, circular_lowpass, draw_blur, uniform
from cassr_jax.data.presets import PRESETS, Order, Preset
from cassr_jax.data.resize import MODES
from cassr_jax.imaging.io import read
from cassr_jax.imaging.pixels import shallow

try:
    import torch
    import torch.nn.functional as F
except ModuleNotFoundError:
    torch = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", required=True, type=Path, help="the picture that the crops are taken from")
    parser.add_argument("--size", type=int, default=512, help="side of a crop in px (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=100, help="number of pairs to make (default: %(default)s)")
    parser.add_argument("--preset", choices=PRESETS, default="realesrgan", help="the damage (default: %(default)s)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    preset = PRESETS[args.preset]
    crops = take_crops(shallow(read(args.picture).rgb), args.size, args.pairs)
    pipelines: dict[str, Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]] = {
        "cassr_jax": lambda crop, seed: degrade(crop, seed, preset)
    }
    if torch is not None:
        torch.set_num_threads(1)
        pipelines["torch"] = lambda crop, seed: TorchPipeline(preset, seed).degrade(crop)

    seconds = {name: np.zeros(args.pairs) for name in pipelines}
    psnr = {name: np.zeros(args.pairs) for name in pipelines}
    for run in pipelines.values():
        run(crops[0], args.pairs)  # the first call of each operation includes its set-up
    for seed, crop in enumerate(crops):
        for name, run in pipelines.items():
            begun = time.thread_time()
            lr, hr = run(crop, seed)
            seconds[name][seed] = time.thread_time() - begun
            psnr[name][seed] = cv2.PSNR(cv2.resize(lr, hr.shape[1::-1], interpolation=cv2.INTER_CUBIC), hr)
    print(f"{args.pairs} pairs of {args.size} x {args.size} px, preset {args.preset}, one thread")
    for name, taken in seconds.items():
        error = taken.std() / np.sqrt(args.pairs)
        print(
            f"{name:10} {1 / taken.mean():6.2f} pairs/s  ({1000 * taken.mean():.0f} +- {1000 * error:.0f} ms per pair; "
            f"mean PSNR of the pairs {psnr[name].mean():.2f} dB)"
        )
    if torch is not None:
        print(f"ratio      {seconds['torch'].mean() / seconds['cassr_jax'].mean():6.2f}")


def take_crops(image: np.ndarray, size: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    image = at_least(image, size)
    corners = rng.integers(0, np.array(image.shape[:2]) - size, (count, 2), endpoint=True)
    return [np.ascontiguousarray(image[top : top + size, left : left + size]) for top, left in corners]


class TorchPipeline:
    """The two-order degradation of one picture on tensors (1, 3, H, W) in [0, 1]."""

    def __init__(self, preset: Preset, seed: int) -> None:
        self.preset = preset
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def degrade(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            first, second = self.preset.first, self.preset.second
            x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
            if self.preset.sharpen:
                x = sharpen(x)
            hr, (height, width) = to_array(x), image.shape[:2]
            small = (height // 4, width // 4)
            x = self.order(x, first, (height, width))
            x = self.compress(x, first)
            x = self.order(x, second, small)
            compress_last = self.rng.random() < 0.5
            if not compress_last:
                x = self.compress(x, second)
            x = self.resize(x, small)
            if self.rng.random() < self.preset.final_sinc_prob:
                x = convolve(x, circular_lowpass(int(self.rng.choice(SIZES)), self.rng.uniform(np.pi / 3, np.pi)))
            if compress_last:
                x = self.compress(x, second)
            return to_array(x), hr

    def order(self, x: Any, order: Order, base: tuple[int, int]) -> Any:
        """Blur, resizing and noise of one order."""
        if self.rng.random() < order.blur_prob:
            kernel = draw_blur(self.rng, order.kernel)
            x = convolve(x, np.pad(kernel, (21 - len(kernel)) // 2))
        low, high = order.resize_range
        low, high = ((1.0, high), (low, 1.0), (1.0, 1.0))[self.rng.choice(3, p=order.resize_prob)]
        factor = self.rng.uniform(low, high)
        x = self.resize(x, (int(base[0] * factor), int(base[1] * factor)))
        gray = self.rng.random() < GRAY_NOISE_PROB
        if self.rng.random() < order.gaussian_prob:
            shape = (1, 1 if gray else 3, *x.shape[2:])
            noise = torch.randn(shape, generator=self.generator) * (uniform(self.rng, order.noise_sigma) / 255)
            return (x + noise).clamp(0, 1)
        return self.poisson(x, uniform(self.rng, order.poisson_scale), gray)

    def poisson(self, x: Any, scale: float, gray: bool) -> Any:
        values = (x * torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True) if gray else x
        values = (values * 255).round().clamp(0, 255) / 255
        photons = 2 ** np.ceil(np.log2(len(torch.unique(values))))
        noise = torch.poisson(values * photons, generator=self.generator) / photons - values
        return (x + noise * scale).clamp(0, 1)

    def resize(self, x: Any, size: tuple[int, int]) -> Any:
        return F.interpolate(x, size=size, mode=str(self.rng.choice(MODES)))

    def compress(self, x: Any, order: Order) -> Any:
        data = io.BytesIO()
        quality = round(uniform(self.rng, order.jpeg_quality))
        Image.fromarray(to_array(x)).save(data, "JPEG", quality=quality, subsampling="4:2:0")
        return torch.from_numpy(np.array(Image.open(data))).permute(2, 0, 1)[None].float() / 255


def convolve(x: Any, kernel: np.ndarray) -> Any:
    below, right = (side // 2 for side in kernel.shape)
    weight = torch.from_numpy(kernel).float().expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (right, right, below, below), mode="reflect"), weight, groups=3)


def sharpen(x: Any) -> Any:
    window = cv2.getGaussianKernel(51, 0)

    def blur(x: Any) -> Any:
        return convolve(convolve(x, window), window.T)

    residual = x - blur(x)
    soft = blur((residual.abs() * 255 > 10).float())
    return soft * (x + 0.5 * residual).clamp(0, 1) + (1 - soft) * x


def to_array(x: Any) -> np.ndarray:
    return (x[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy().astype(np.uint8)


if __name__ == "__main__":
    main()
