"""A whole cascade at the narrowest widths with random weights, as a folder that `cassr_jax.load` takes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.config_files import to_json
from cassr_jax.loading import CASCADE_FILE
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.fusion import FusionConfig
from cassr_jax.models.pixel_attention import PixelAttentionConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.taesd import TAESDConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import shapes_of, write_network
from cassr_jax.weights.configs import AttachedConfig
from tests.random_weights import random_state_dict

UNET = UNetConfig(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=8,
    norm_num_groups=4,
)
HINT = (8, 8, 16)  # two halvings, as the autoencoder's
NETWORKS: dict[str, Any] = {
    "vae": VAEConfig(
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
        mid_block_add_attention=False,
    ),
    "unet": UNET,
    "text_encoder": LearnedContextConfig(num_tokens=2, hidden_size=8),
    "scedit": AttachedConfig(UNET, SCEditConfig(hint_channels=HINT)),
    "controlnet": AttachedConfig(UNET, ControlNetConfig(conditioning_embedding_out_channels=HINT)),
    "activation_controlnet": AttachedConfig(UNET, ControlNetConfig(conditioning_embedding_out_channels=HINT)),
    "multiple_attention": UNET,
    "pixel_attention": AttachedConfig(UNET, PixelAttentionConfig()),
    "taesd": TAESDConfig(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ),
    "fusion": FusionConfig((8, 8, 16), strides=(1, 2, 4), num_guides=2, num_blocks=1),
}
_OPTIONAL = ("fusion", "taesd", "pixel_attention")
SAMPLING = SamplingConfig(num_steps=3, guidance_scale=2.0, negative_prompt="")
TILE = 64


def is_zero_at_start(name: str) -> bool:
    """Parameters that a new network has at zero: the zero convolutions and the last projections of new branches."""
    return name.startswith(
        ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")
    ) or (
        ".attn.to_out.0.kernel" in name
        or ".tuner_op.ln2.kernel" in name
        or (name.startswith("dense_hint_blocks") and name.endswith("kernel"))
        or re.match(r"blocks\.\d+\.conv_out\.", name) is not None
        or re.search(r"\.pixel_attentions\.\d+\.proj_out\.", name) is not None
    )


def random_params(kind: str, *, trained: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters; not `trained`, what a new network has at zero is zero."""
    shapes = {name: shape.shape for name, shape in shapes_of(kind, NETWORKS[kind]).items()}
    params = random_state_dict({f"{kind}.{name}": shape for name, shape in shapes.items()}, seed)
    result = {}
    for name, shape in shapes.items():
        value = params[f"{kind}.{name}"]
        if name.endswith("kernel"):  # the gain counts from the last axis here, not from the first
            value = value * np.sqrt(np.prod(shape[1:]) / np.prod(shape[:-1]))
        if not trained and (is_zero_at_start(name) or "ln2.bias" in name or "dense_hint" in name):
            value = np.zeros_like(value)
        if not trained and name.endswith("attn.to_out.0.bias"):
            value = np.zeros_like(value)
        result[name] = value.astype(np.float32)
    return result


def write_random_cascade(folder: Path, *, trained: bool = True, **changes: Any) -> Path:
    """The folder of a random cascade; `changes` are fields of its `CascadeConfig`."""
    for kind, network in NETWORKS.items():
        write_network(folder / kind, kind, network, random_params(kind, trained=trained))
    settings: dict[str, Any] = {
        "components": {kind: kind for kind in NETWORKS if kind not in _OPTIONAL},
        "sampling": SAMPLING,
        "activation_sampling": SAMPLING,
        "tile": TILE,
    }
    config = CascadeConfig(**settings | changes)
    (folder / CASCADE_FILE).write_text(json.dumps(to_json(config), indent=2))
    return folder
