"""Names of the original latent diffusion programs (CompVis/stable-diffusion, lllyasviel/ControlNet).

Their blocks are numbered consecutively, diffusers' by level, so a name depends on the number of layers in each level.
The tables are derived from diffusers' names.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE = [
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)", r"up.\1.block.\2"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"mid_block\.resnets\.0", r"mid.block_1"),
    (r"mid_block\.resnets\.1", r"mid.block_2"),
    (r"mid_block\.attentions\.0", r"mid.attn_1"),
    (r"(?<=attn_1\.)group_norm", r"norm"),
    (r"(?<=attn_1\.)to_([qkv])", r"\1"),
    (r"(?<=attn_1\.)to_out\.0", r"proj_out"),
    (r"conv_shortcut", r"nin_shortcut"),
    (r"conv_norm_out", r"norm_out"),
]


def unet_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' name of every U-Net tensor -> its original name, without `model.diffusion_model.`."""
    names = list(names)
    modules = _encoder(names) | {"conv_norm_out": "out.0", "conv_out": "out.2"}
    number = 0
    for block, layers in enumerate(_layers(names, "up_blocks")):
        for layer in range(layers):
            modules[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{number}.0"
            modules[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        attends = any(name.startswith(f"up_blocks.{block}.attentions.") for name in names)
        modules[f"up_blocks.{block}.upsamplers.0"] = f"output_blocks.{number - 1}.{2 if attends else 1}"
    return {name: _rename(name, modules) for name in names}


def controlnet_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' name of every ControlNet tensor -> its original name, without `control_model.`."""
    names = list(names)
    hint = "controlnet_cond_embedding"
    blocks = _count(names, rf"{hint}\.blocks\.(\d+)\.")
    modules = _encoder(names) | {"controlnet_mid_block": "middle_block_out.0", f"{hint}.conv_in": "input_hint_block.0"}
    # An activation follows each convolution, so convolutions have the even numbers.
    modules |= {f"{hint}.blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in range(blocks)}
    modules[f"{hint}.conv_out"] = f"input_hint_block.{2 * blocks + 2}"
    zero = _count(names, r"controlnet_down_blocks\.(\d+)\.")
    modules |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(zero)}
    return {name: _rename(name, modules) for name in names}


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' name of every autoencoder tensor -> its original name, without `first_stage_model.`."""
    names = list(names)
    levels = _count(names, r"decoder\.up_blocks\.(\d+)\.")

    def rename(name: str) -> str:
        # The original numbers the decoder's levels starting from the picture.
        name = re.sub(r"up_blocks\.(\d+)", lambda level: f"up_blocks.{levels - 1 - int(level[1])}", name)
        for pattern, replacement in _VAE:
            name = re.sub(pattern, replacement, name)
        return name

    return {name: rename(name) for name in names}


def ema_name(name: str) -> str:
    """The name of the moving average of an original U-Net's tensor, without `model_ema.`; it has no dots."""
    return f"diffusion_model.{name}".replace(".", "")


def _encoder(names: list[str]) -> dict[str, str]:
    modules = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 1
    for block, layers in enumerate(_layers(names, "down_blocks")):
        for layer in range(layers):
            modules[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{number}.0"
            modules[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        modules[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
        number += 1
    return modules


def _layers(names: list[str], blocks: str) -> list[int]:
    """The number of resnets in each of the blocks."""
    found = {
        match[1] + "." + match[2] for name in names if (match := re.match(rf"{blocks}\.(\d+)\.resnets\.(\d+)", name))
    }
    counts = Counter(int(pair.split(".")[0]) for pair in found)
    return [counts[block] for block in sorted(counts)]


def _count(names: list[str], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def _rename(name: str, modules: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        if module in modules:
            rest = parts[length:]
            if module.split(".")[-2:-1] == ["resnets"]:
                rest[0] = _RESNET[rest[0]]
            return ".".join([modules[module], *rest])
    raise KeyError(f"{name} has no place in the original layout")
