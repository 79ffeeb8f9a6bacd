"""Record what the published torch degradation gives: `degradation.npz`.

Kernels, noise and sharpening are basicsr 1.4.2's own, resizing is torch's `interpolate`, JPEG is Pillow's. basicsr
needs an older torchvision to be imported as a whole, so two of its modules are loaded from its unpacked source archive
(`pip download --no-deps --no-binary :all: basicsr==1.4.2`). Run from the repository root:

    python -m tests.golden.make_degradation PATH_OF/basicsr-1.4.2
"""

# ruff: noqa: NPY002 (basicsr draws from the global generators)

import importlib.util
import io
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cassr_jax.data.kernels import SHAPE_PROBABILITIES, SHAPES
from cassr_jax.data.presets import PRESETS, Preset
from tests.data.measures import MEASURES, picture, small_picture

SEED = 0
DRAWS = 2000
SIDE = 80  # basicsr cannot reflect by more than a picture has, and the first resizing may leave 15 % of it
SIZES = ((13, 17), (5, 6), (20, 9), (40, 41), (26, 34), (1, 1), (7, 60))
KERNELS = (  # size, sigma_x, sigma_y, rotation, beta
    (7, 0.2, 0.2, 0.0, 0.5),
    (13, 2.0, 0.7, 1.1, 1.6),
    (21, 3.0, 1.2, -2.5, 4.0),
)
LOWPASS = ((7, 1.1), (13, 0.7), (21, 3.1))  # size, cut-off


def load_basicsr(root: Path) -> tuple[ModuleType, ModuleType]:
    """`degradations` and `img_process_util` of an unpacked basicsr."""
    functional = ModuleType("torchvision.transforms.functional_tensor")
    weights = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    functional.rgb_to_grayscale = lambda img, num_output_channels=1: (img * weights).sum(1, keepdim=True)
    data_util = ModuleType("basicsr.data.data_util")
    for module in (functional, data_util):
        sys.modules[module.__name__] = module
    for package in ("torchvision", "torchvision.transforms", "basicsr", "basicsr.data", "basicsr.utils"):
        sys.modules[package] = ModuleType(package)

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, root / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    paths = ("basicsr/data/degradations.py", "basicsr/utils/img_process_util.py")
    return tuple(load(path) for path in paths)


class Reference:
    """The order of Real-ESRGAN's training code, with basicsr's operations and this project's tables of constants."""

    def __init__(self, root: Path) -> None:
        self.ops, self.util = load_basicsr(root)
        self.usm = self.util.USMSharp()

    def kernel(self, ranges: dict) -> np.ndarray:
        size = random.choice(ranges["sizes"])
        if np.random.uniform() < ranges["sinc_prob"]:
            return self.ops.circular_lowpass_kernel(
                np.random.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi), size
            )
        return self.ops.random_mixed_kernels(
            SHAPES,
            SHAPE_PROBABILITIES,
            size,
            ranges["sigma"],
            ranges["sigma"],
            (-np.pi, np.pi),
            ranges["beta_generalized"],
            ranges["beta_plateau"],
        )

    def blur(self, x: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
        pad = (21 - len(kernel)) // 2
        return self.util.filter2D(x, torch.from_numpy(np.pad(kernel, pad)).float()[None])

    def resize(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return F.interpolate(x, size=size, mode=random.choice(["area", "bilinear", "bicubic"]))

    def factor(self, order: dict) -> float:
        kind = random.choices(["up", "down", "keep"], order["resize_prob"])[0]
        low, high = order["resize_range"]
        return {"up": np.random.uniform(1, high), "down": np.random.uniform(low, 1), "keep": 1.0}[kind]

    def noise(self, x: torch.Tensor, order: dict) -> torch.Tensor:
        if np.random.uniform() < order["gaussian_prob"]:
            return self.ops.random_add_gaussian_noise_pt(x, order["noise_sigma"], 0.4, clip=True)
        return self.ops.random_add_poisson_noise_pt(x, order["poisson_scale"], 0.4, clip=True)

    def compress(self, x: torch.Tensor, order: dict) -> torch.Tensor:
        """The real codec in place of basicsr's imitation, which repeats chroma pixels where decoders interpolate."""
        pixels = Image.fromarray(to_array(x))
        data = io.BytesIO()
        pixels.save(data, "JPEG", quality=round(np.random.uniform(*order["jpeg_quality"])), subsampling="4:2:0")
        return torch.from_numpy(np.array(Image.open(data))).permute(2, 0, 1)[None].float() / 255

    def target(self, image: np.ndarray, preset: Preset) -> torch.Tensor:
        """uint8 (H, W, 3) to float32 (1, 3, H, W)."""
        x = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
        return self.usm(x) if preset.sharpen else x

    @torch.no_grad()
    def degrade(self, x: torch.Tensor, preset: Preset) -> np.ndarray:
        """A target, float32 (1, 3, H, W), to uint8 (H / 4, W / 4, 3)."""
        first, second = asdict(preset.first), asdict(preset.second)
        small = (x.shape[2] // 4, x.shape[3] // 4)
        if np.random.uniform() < preset.no_degradation_prob:
            return to_array(F.interpolate(x, size=small, mode="bicubic"))
        x = self.blur(x, self.kernel(first["kernel"]))
        factor = self.factor(first)
        x = F.interpolate(x, scale_factor=factor, mode=random.choice(["area", "bilinear", "bicubic"]))
        x = self.compress(self.noise(x, first), first)
        if np.random.uniform() < second["blur_prob"]:
            x = self.blur(x, self.kernel(second["kernel"]))
        factor = self.factor(second)
        x = self.noise(self.resize(x, (int(small[0] * factor), int(small[1] * factor))), second)
        resize_first = np.random.uniform() < 0.5
        if not resize_first:
            x = self.compress(x, second)
        x = self.resize(x, small)
        if np.random.uniform() < preset.final_sinc_prob:
            size = random.choice([7, 9, 11, 13, 15, 17, 19, 21])
            x = self.blur(x, self.ops.circular_lowpass_kernel(np.random.uniform(np.pi / 3, np.pi), size))
        if resize_first:
            x = self.compress(x, second)
        return to_array(x)


def to_array(x: torch.Tensor) -> np.ndarray:
    return (x[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy().astype(np.uint8)


def main() -> None:
    reference = Reference(Path(sys.argv[1]))
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    image = small_picture()
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    for mode in ("area", "bilinear", "bicubic"):
        for height, width in SIZES:
            arrays[f"resize_{mode}_{height}x{width}"] = (
                F.interpolate(tensor, size=(height, width), mode=mode)[0].permute(1, 2, 0).numpy()
            )
    ops = reference.ops
    for index, (size, sigma_x, sigma_y, rotation, beta) in enumerate(KERNELS):
        shape = (size, sigma_x, sigma_y, rotation)
        arrays[f"kernel_gaussian_{index}"] = ops.bivariate_Gaussian(*shape, isotropic=False)
        arrays[f"kernel_generalized_{index}"] = ops.bivariate_generalized_Gaussian(*shape, beta, isotropic=False)
        arrays[f"kernel_plateau_{index}"] = ops.bivariate_plateau(*shape, beta, isotropic=False)
    for index, (size, cutoff) in enumerate(LOWPASS):
        arrays[f"kernel_lowpass_{index}"] = ops.circular_lowpass_kernel(cutoff, size)
    large = picture(64, seed=3)
    unit = torch.from_numpy(large.astype(np.float32) / 255).permute(2, 0, 1)[None]
    arrays["sharpened"] = reference.usm(unit)[0].permute(1, 2, 0).numpy().astype(np.float16)
    kernel = ops.bivariate_Gaussian(13, 2.0, 0.7, 1.1, isotropic=False)
    arrays["blurred"] = reference.blur(unit, kernel)[0].permute(1, 2, 0).numpy().astype(np.float16)

    for name, preset in PRESETS.items():
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        targets = [reference.target(picture(SIDE, seed), preset) for seed in range(16)]
        measured = []
        for draw in range(DRAWS):
            target = targets[draw % 16]
            lr = reference.degrade(target, preset)
            measured.append([measure(lr, to_array(target)) for measure in MEASURES.values()])
        table = np.array(measured)
        arrays[f"mean_{name}"], arrays[f"std_{name}"] = table.mean(0), table.std(0)
        arrays[f"quantiles_{name}"] = np.quantile(table, (0.1, 0.25, 0.5, 0.75, 0.9), axis=0)
        print(name, dict(zip(MEASURES, table.mean(0).round(3), strict=True)), table.std(0).round(3))
    versions = {"basicsr": "1.4.2", "torch": torch.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
    np.savez_compressed(
        Path(__file__).with_name("degradation.npz"),
        **arrays,
        sizes=np.array(SIZES),
        kernels=np.array(KERNELS),
        lowpass=np.array(LOWPASS),
        measures=json.dumps(list(MEASURES)),
        draws=DRAWS,
        side=SIDE,
        seed=SEED,
        versions=json.dumps(versions),
    )


if __name__ == "__main__":
    main()
