"""LoRAs with random factors, in the layouts in which people have them."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.typing import DTypeLike

from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.networks import shapes_of, write_network
from cassr_jax.weights.convert import torch_name, torch_shapes
from cassr_jax.weights.original import unet_names
from tests.weights.published import UNET, Arrays, random_component, save

TEXT = CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
CONFIGS = {"unet": UNET, "text_encoder": TEXT}

UNET_LINEARS = r"attn\d\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|proj_(in|out)|time_emb_proj|linear_1"
UNET_CONVOLUTIONS = r"conv|conv\d|conv_(in|out|shortcut)"
TEXT_LINEARS = r"(q|k|v|out)_proj|fc\d"


class Factors(NamedTuple):
    """The factors of one layer: (rank, in, ...) and (out, rank, ...), and alpha, if the file holds it."""

    down: np.ndarray
    up: np.ndarray
    alpha: float | None = None

    @property
    def product(self) -> np.ndarray:
        """alpha / rank * up @ down in float64, in torch's layout."""
        down, up = self.down.astype(np.float64), self.up.astype(np.float64)
        rank = len(down)
        added = np.einsum("or,ri...->oi...", up.reshape(len(up), rank), down)
        return added * (rank if self.alpha is None else self.alpha) / rank


LoRAs = Mapping[str, Mapping[str, Factors]]  # kind -> layer -> factors


def weight_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Layer -> the shape of its weight in torch, of every layer that a LoRA may change."""
    shapes = {name: shape.shape for name, shape in shapes_of(kind, CONFIGS[kind]).items() if name.endswith(".kernel")}
    found = {torch_name(name).removesuffix(".weight"): torch_shapes(name, shape) for name, shape in shapes.items()}
    # Diffusers' U-Nets have their transformers' projections as convolutions.
    return {name: shapes[-1] if re.search(r"proj_(in|out)$", name) else shapes[0] for name, shapes in found.items()}


def random_factors(kind: str, layers: str, *, rank: int = 2, alpha: float | None = None, seed: int = 0) -> dict:
    """Factors for the layers of a network whose names end as the pattern says, which move its output much."""
    rng, result = np.random.default_rng(seed), {}
    for name, (outs, *ins) in weight_shapes(kind).items():
        if re.search(rf"(^|\.)({layers})$", name):
            down = rng.normal(size=(rank, *ins)) / np.sqrt(np.prod(ins))
            up = rng.normal(size=(outs, rank, *[1] * (len(ins) - 1)))
            result[name] = Factors(down.astype(np.float32), up.astype(np.float32), alpha)
    return result


def in_pairs(down: str, up: str, name: Callable[[str, str], str]) -> Callable[[LoRAs], Arrays]:
    """A layout with these endings, and names of layers given by a function of kind and layer."""

    def tensors(loras: LoRAs) -> Arrays:
        found = {}
        for kind, layers in loras.items():
            for layer, factors in layers.items():
                theirs = name(kind, layer)
                found |= {theirs + down: factors.down, theirs + up: factors.up}
                if factors.alpha is not None:
                    found[f"{theirs}.alpha"] = np.array(factors.alpha, np.float32)
        return found

    return tensors


def oldest(kind: str, layer: str) -> str:
    """Diffusers' first names, in which the text encoder's attention was named as the U-Net's."""
    if kind == "text_encoder":
        return "text_encoder." + re.sub(r"(q|k|v|out)_proj$", r"to_\1", layer)
    return "unet." + re.sub(r"(attn\d)\.(to_(q|k|v|out))(\.0)?$", r"\1.processor.\2", layer)


def kohya(kind: str, layer: str) -> str:
    return {"unet": "lora_unet_", "text_encoder": "lora_te_"}[kind] + layer.replace(".", "_")


def original(kind: str, layer: str) -> str:
    """kohya-ss's names for a network whose modules have the names of the original program."""
    if kind == "text_encoder":
        return kohya(kind, layer)
    weights = [f"{name}.weight" for name in weight_shapes(kind)]
    return kohya(kind, unet_names(weights)[f"{layer}.weight"].removesuffix(".weight"))


def dotted(kind: str, layer: str) -> str:
    return f"{kind}.{layer}"


LAYOUTS: Mapping[str, Callable[[LoRAs], Arrays]] = {
    "diffusers": in_pairs(".lora_A.weight", ".lora_B.weight", dotted),
    "lora": in_pairs(".lora.down.weight", ".lora.up.weight", dotted),
    "linear_layer": in_pairs(".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", dotted),
    "oldest": in_pairs("_lora.down.weight", "_lora.up.weight", oldest),
    "kohya": in_pairs(".lora_down.weight", ".lora_up.weight", kohya),
    "original": in_pairs(".lora_down.weight", ".lora_up.weight", original),
}


def save_lora(path: Path, loras: LoRAs, layout: str = "diffusers") -> Path:
    return save(path, LAYOUTS[layout](loras))


def write_networks(folder: Path, dtype: DTypeLike = np.float32) -> Path:
    """The U-Net and the text encoder that the LoRAs are for, each in a folder of its own."""
    for kind, config in CONFIGS.items():
        write_network(folder / kind, kind, config, random_component(kind, config), dtype)
    return folder
