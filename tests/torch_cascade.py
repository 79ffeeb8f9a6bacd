"""The whole cascade in torch, in float64, from the folder of a random one. Needs the extra `reference`.

U-Net, ControlNets, autoencoder and scheduler are diffusers', which reads the folder itself; the colour fix is
StableSR's, as in `tests.golden.make_color`. One picture in one tile: a network sees a square, the picture's border
repeated below and to the right.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from tests.golden.make_color import torch_wavelet
from tests.random_cascade import NETWORKS, UNET
from tests.references import CSCTuner
from tests.torch_denoisers import (
    guided,
    multiple_attention,
    predict_base,
    predict_cassr,
    predict_controlnet,
    predict_scedit,
)

Tensor = torch.Tensor
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Sampling(NamedTuple):
    """How both stages are sampled: as the test asks `CasSR.restore` to."""

    steps: int
    guidance_scale: float
    size: tuple[int, int]  # of the picture
    side: int  # of the square that a network sees, in pixels


def with_weights(module: nn.Module, file: Path) -> nn.Module:
    module.load_state_dict(load_file(file))
    return module


class TorchCascade:
    """Both stages; pictures are (H, W, 3) float64 in [0, 255]."""

    def __init__(self, folder: Path):
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").double()
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        self.controlnet = ControlNetModel.from_pretrained(folder / "controlnet")
        self.activation = ControlNetModel.from_pretrained(folder / "activation_controlnet").double()
        attention = multiple_attention(self.unet, self.controlnet)
        self.attention = with_weights(attention, folder / "multiple_attention" / WEIGHTS).double()
        tuner = CSCTuner(UNET, NETWORKS["scedit"].own)
        self.tuner = with_weights(tuner, folder / "scedit" / WEIGHTS).double()
        self.unet, self.controlnet = self.unet.double(), self.controlnet.double()
        (contexts,) = load_file(folder / "text_encoder" / "model.safetensors").values()
        self.negative, self.positive = contexts.double().split(1)

    def first_stage(self, kind: str, bicubic: np.ndarray, noise: np.ndarray, sampling: Sampling) -> np.ndarray:
        predict = {
            "scedit": partial(predict_scedit, self.unet, self.tuner),
            "controlnet": partial(predict_controlnet, self.unet, self.activation),
        }[kind]
        return self._sample(predict, [bicubic], bicubic, noise, sampling)

    def second_stage(
        self, bicubic: np.ndarray, reference: np.ndarray, start: np.ndarray, noise: np.ndarray, sampling: Sampling
    ) -> np.ndarray:
        predict = partial(predict_cassr, self.unet, self.controlnet, self.attention)
        return self._sample(predict, [bicubic, reference], start, noise, sampling)

    def stable_diffusion(self, start: np.ndarray, noise: np.ndarray, sampling: Sampling) -> np.ndarray:
        """diffusers' U-Net and nothing beside it, with the colours of `start`."""
        return self._sample(partial(predict_base, self.unet), [start], start, noise, sampling)

    @torch.no_grad()
    def _sample(
        self,
        predict: Callable[..., Tensor],
        images: list[np.ndarray],
        start: np.ndarray,
        noise: np.ndarray,
        sampling: Sampling,
    ) -> np.ndarray:
        """`images`: what the network reads, the picture enlarged first; its colours are the result's."""
        (height, width), side = sampling.size, sampling.side
        scheduler: Any = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            timestep_spacing="trailing",
        )
        scheduler.set_timesteps(sampling.steps)

        def square(image: np.ndarray) -> Tensor:
            return F.pad(to_torch(image), (0, side - width, 0, side - height), mode="replicate")

        seen = list(map(square, images))
        clean = self.vae.encode(square(start)).latent_dist.mean * self.vae.config.scaling_factor
        x = torch.from_numpy(noise).double().permute(0, 3, 1, 2)
        x = scheduler.add_noise(clean, x, torch.tensor([999]))
        for t in scheduler.timesteps:
            both = [predict(x, t[None], text, *seen) for text in (self.negative, self.positive)]
            x = scheduler.step(guided(*both, sampling.guidance_scale), t, x).prev_sample
        image = self.vae.decode(x / self.vae.config.scaling_factor).sample[:, :, :height, :width]
        image = torch_wavelet(image, to_torch(images[0]))
        return (image[0].permute(1, 2, 0).numpy() + 1) * 127.5


def to_torch(image: np.ndarray) -> Tensor:
    """(H, W, 3) in [0, 255] -> (1, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).double().permute(2, 0, 1)[None] / 127.5 - 1


def rounded(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def run(folder: Path, kind: str, bicubic: np.ndarray, noises: np.ndarray, start: str, sampling: Sampling) -> Any:
    """Reference and result before they are rounded, (H, W, 3) float64 each, the first stage of `kind`.

    `noises` of the first stage and of the second, (2, 1, h, w, 4); the second starts from `lr` or `reference`.
    """
    cascade = TorchCascade(folder)
    reference = cascade.first_stage(kind, bicubic, noises[0], sampling)
    given = rounded(reference)
    first = {"lq": bicubic, "reference": given}[start]
    return reference, cascade.second_stage(bicubic, given, first, noises[1], sampling)


def run_stable_diffusion(folder: Path, bicubic: np.ndarray, noises: np.ndarray, sampling: Sampling) -> list[np.ndarray]:
    """What an untrained cascade makes in its two stages, each started from the enlarged picture; as `run`."""
    return [TorchCascade(folder).stable_diffusion(bicubic, noise, sampling) for noise in noises]
