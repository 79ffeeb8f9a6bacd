"""Original names against names that stand in the published files of Stable Diffusion 1.5 and ControlNet 1.0."""

import pytest

from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import shapes_of
from cassr_jax.weights.configs import AttachedConfig
from cassr_jax.weights.convert import torch_name
from cassr_jax.weights.original import controlnet_names, unet_names, vae_names

TABLES = {"unet": unet_names, "controlnet": controlnet_names, "vae": vae_names}
CONFIGS = {
    "unet": UNetConfig(),
    "controlnet": AttachedConfig(UNetConfig(), ControlNetConfig()),
    "vae": VAEConfig(),
}
KNOWN = {
    "unet": {
        "time_embedding.linear_2.weight": "time_embed.2.weight",
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.resnets.1.norm1.weight": "input_blocks.2.0.in_layers.0.weight",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
        "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_out.0.bias": (
            "input_blocks.8.1.transformer_blocks.0.attn2.to_out.0.bias"
        ),
        "down_blocks.3.resnets.1.time_emb_proj.weight": "input_blocks.11.0.emb_layers.1.weight",
        "mid_block.resnets.1.conv2.weight": "middle_block.2.out_layers.3.weight",
        "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
        "up_blocks.0.resnets.2.norm2.bias": "output_blocks.2.0.out_layers.0.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.2.upsamplers.0.conv.weight": "output_blocks.8.2.conv.weight",
        "up_blocks.3.attentions.2.norm.weight": "output_blocks.11.1.norm.weight",
        "conv_norm_out.weight": "out.0.weight",
        "conv_out.bias": "out.2.bias",
    },
    "controlnet": {
        "controlnet_cond_embedding.conv_in.weight": "input_hint_block.0.weight",
        "controlnet_cond_embedding.blocks.0.weight": "input_hint_block.2.weight",
        "controlnet_cond_embedding.blocks.5.bias": "input_hint_block.12.bias",
        "controlnet_cond_embedding.conv_out.weight": "input_hint_block.14.weight",
        "controlnet_down_blocks.11.weight": "zero_convs.11.0.weight",
        "controlnet_mid_block.bias": "middle_block_out.0.bias",
        "down_blocks.1.downsamplers.0.conv.weight": "input_blocks.6.0.op.weight",
    },
    "vae": {
        "encoder.conv_in.weight": "encoder.conv_in.weight",
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.down_blocks.2.downsamplers.0.conv.bias": "encoder.down.2.downsample.conv.bias",
        "encoder.mid_block.attentions.0.to_k.weight": "encoder.mid.attn_1.k.weight",
        "encoder.mid_block.attentions.0.to_out.0.bias": "encoder.mid.attn_1.proj_out.bias",
        "encoder.conv_norm_out.weight": "encoder.norm_out.weight",
        "decoder.mid_block.attentions.0.group_norm.bias": "decoder.mid.attn_1.norm.bias",
        "decoder.mid_block.resnets.1.norm2.weight": "decoder.mid.block_2.norm2.weight",
        "decoder.up_blocks.0.resnets.2.conv1.weight": "decoder.up.3.block.2.conv1.weight",
        "decoder.up_blocks.3.resnets.0.conv_shortcut.bias": "decoder.up.0.block.0.nin_shortcut.bias",
        "decoder.up_blocks.2.upsamplers.0.conv.weight": "decoder.up.1.upsample.conv.weight",
        "quant_conv.weight": "quant_conv.weight",
    },
}


@pytest.mark.parametrize("kind", TABLES)
def test_names(kind):
    names = [torch_name(name) for name in shapes_of(kind, CONFIGS[kind])]
    table = TABLES[kind](names)
    assert sorted(table) == sorted(names)
    assert len(set(table.values())) == len(names)
    assert {name: table[name] for name in KNOWN[kind]} == KNOWN[kind]


@pytest.mark.reference
@pytest.mark.parametrize("kind", TABLES)
def test_names_are_those_diffusers_converts(kind):
    """diffusers' own converter turns our original names into its names; values tell which went where."""
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    torch = pytest.importorskip("torch")
    names = [torch_name(name) for name in shapes_of(kind, CONFIGS[kind])]
    table = TABLES[kind](names)
    prefix = {"unet": "model.diffusion_model.", "controlnet": "control_model.", "vae": "first_stage_model."}[kind]
    # The one use of a value is the attention's squeeze from 1x1 convolutions to matrices.
    file = {prefix + table[name]: torch.full((1, 1, 1, 1), float(i)) for i, name in enumerate(names)}
    convert = {
        "unet": utils.convert_ldm_unet_checkpoint,
        "controlnet": utils.convert_controlnet_checkpoint,
        "vae": utils.convert_ldm_vae_checkpoint,
    }[kind]
    config = {
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4 if kind == "vae" else UNetConfig().down_block_types,
        "up_block_types": UNetConfig().up_block_types,
        "block_out_channels": (320, 640, 1280, 1280),
        "class_embed_type": None,
        "addition_embed_type": None,
    }
    converted = {name: float(value.reshape(-1)[0]) for name, value in convert(file, config).items()}
    assert converted == {name: float(i) for i, name in enumerate(names)}
