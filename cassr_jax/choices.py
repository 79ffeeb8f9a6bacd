"""The choices of options and fields, in a module that does not import JAX."""

from collections.abc import Mapping
from typing import Literal

Sampler = Literal["ddim", "euler", "dpmpp_2m", "unipc"]
Start = Literal["lq", "reference", "noise"]
ColorFix = Literal["adain", "contrast", "wavelet", "none"]
DType = Literal["float32", "bfloat16", "float16"]
Split = Literal["tiles", "spatial"]
Layout = Literal["diffusers", "original"]

PRECISIONS: Mapping[str, DType] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""The data types by their names in the option --precision."""

SPEEDS: Mapping[str, Mapping[str, str | int]] = {
    "fast": {"sampler": "dpmpp_2m", "steps": 20},
    "draft": {"sampler": "dpmpp_2m", "steps": 8},
}
"""The options that each --speed stands for."""
