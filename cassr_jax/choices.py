"""The choices of options and fields, in a module that does not import JAX."""

from collections.abc import Mapping
from typing import Literal

Sampler = Literal["ddim", "euler", "dpmpp_2m", "unipc", "euler_a", "dpmpp_2m_sde", "lcm", "tcd"]
Start = Literal["lq", "reference", "noise"]
ColorFix = Literal["adain", "contrast", "wavelet", "none"]
DType = Literal["float32", "bfloat16", "float16"]
Decoder = Literal["vae", "taesd"]
Split = Literal["tiles", "spatial"]
Layout = Literal["diffusers", "original", "orbax"]

PRECISIONS: Mapping[str, DType] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""The data types by their names in the option --precision."""

SPEEDS: Mapping[str, Mapping[str, str | float]] = {
    "fast": {"sampler": "dpmpp_2m", "steps": 20},
    "draft": {"sampler": "dpmpp_2m", "steps": 8},
    "lcm": {"sampler": "lcm", "steps": 6, "guidance_scale": 1.0},
    "hyper": {"sampler": "tcd", "eta": 1.0, "steps": 4, "guidance_scale": 1.0},
}
"""The options that each --speed stands for, and for some a sampler's `eta`."""

DISTILLED_LORAS: Mapping[str, str] = {
    "lcm": "latent-consistency/lcm-lora-sdv1-5",
    "hyper": "ByteDance/Hyper-SD:Hyper-SD15-1step-lora.safetensors",
}
"""The LoRA, by its id on the hub, that a --speed adds to a cascade without LoRAs: it needs a distilled network."""
