#!/usr/bin/env python
"""Write folders as the hub has them, with random weights: what is tried on real files can be tried without them.

    python benchmarks/published_folders.py FOLDER
    python benchmarks/published_folders.py FOLDER --width 32 --only stable-diffusion-v1-5 --shards 3
    python benchmarks/published_folders.py FOLDER --tokenizer CLIP --only stable-diffusion-v1-5

The names, shapes and configs are the published ones; with --width, all widths are narrow and the rest is the same. A
tensor is drawn from its name alone, so two files of the same network hold the same weights. At full size everything
takes 17 GB in float32; memory holds one tensor at a time.
"""

import argparse
import math
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cassr_jax.files import Json, write_json
from cassr_jax.kinds import KINDS
from cassr_jax.weights.published import Published
from cassr_jax.weights.safetensors import write_safetensors
from cassr_jax.weights.tensors import Weights

Tensors = Mapping[str, tuple[tuple[int, ...], np.dtype]]

STEM = "diffusion_pytorch_model"
VARIANTS = {"fp32": ("", np.dtype(np.float32)), "fp16": (".fp16", np.dtype(np.float16))}
LORA_RANK = 64

_UNET: Json = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
_VAE: Json = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_TEXT: Json = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
_CONTROLNET: Json = {
    **{name: value for name, value in _UNET.items() if name not in ("center_input_sample", "out_channels")},
    "_class_name": "ControlNetModel",
    "_diffusers_version": "0.16.0.dev0",
    "class_embed_type": None,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "use_linear_projection": False,
}
del _CONTROLNET["up_block_types"], _CONTROLNET["sample_size"]
_TAESD: Json = {
    "_class_name": "AutoencoderTiny",
    "_diffusers_version": "0.20.0.dev0",
    "act_fn": "relu",
    "decoder_block_out_channels": [64, 64, 64, 64],
    "encoder_block_out_channels": [64, 64, 64, 64],
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}
_SCHEDULER: Json = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_MARK = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
_START, _END = ({"content": f"<|{name}oftext|>", **_MARK} for name in ("start", "end"))
_TOKENS: Json = {"bos_token": _START, "eos_token": _END, "pad_token": "<|endoftext|>", "unk_token": _END}
_TOKENIZER: Json = {
    **{name: {"__type": "AddedToken", **mark} if isinstance(mark, dict) else mark for name, mark in _TOKENS.items()},
    "add_prefix_space": False,
    "do_lower_case": True,
    "errors": "replace",
    "model_max_length": 77,
    "name_or_path": "openai/clip-vit-large-patch14",
    "tokenizer_class": "CLIPTokenizer",
}
_FEATURES: Json = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
_SAFETY: Json = {
    "_name_or_path": "CompVis/stable-diffusion-safety-checker",
    "architectures": ["StableDiffusionSafetyChecker"],
    "model_type": "clip",
    "projection_dim": 768,
    "text_config_dict": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config_dict": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14},
}
_INDEX: Json = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
# Stable Diffusion 1.5's autoencoder was published with the older names of its attention.
_OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
# The modules that LCM-LoRA and Hyper-SD adapt.
_ADAPTED = re.compile(
    r".*\.(to_[qkv]|to_out\.0|proj_in|proj_out|net\.0\.proj|net\.2|conv1|conv2|conv_shortcut|(down|up)samplers\.0\.conv"
    r"|time_emb_proj)\.weight"
)


def configs(width: int | None = None) -> dict[str, Json]:
    """The config.json of each network, of the published widths or with a U-Net of `width`, a multiple of 8."""
    if width is None:
        return {"unet": _UNET, "vae": _VAE, "text_encoder": _TEXT, "controlnet": _CONTROLNET, "taesd": _TAESD}
    widths = {"block_out_channels": [width, 2 * width, 4 * width, 4 * width], "norm_num_groups": math.gcd(width, 32)}
    context = {"cross_attention_dim": 2 * width}
    text = {"hidden_size": 2 * width, "intermediate_size": 8 * width, "num_attention_heads": 4, "num_hidden_layers": 2}
    tiny = {f"{side}_block_out_channels": [width] * 4 for side in ("encoder", "decoder")}
    return {
        "unet": _UNET | widths | context,
        "vae": _VAE | widths,
        "text_encoder": _TEXT | text,
        "controlnet": _CONTROLNET | widths | context,
        "taesd": _TAESD | tiny,
    }


def network_tensors(kind: str, config: Json, dtype: np.dtype) -> Tensors:
    """The published names, shapes and types of a network's tensors, in this program's terms; nothing is computed."""
    entry = KINDS[kind]
    assert isinstance(entry.files, Published)
    parsed = entry.files.config.read_fields(config, kind)
    shapes = entry.shapes(parsed)
    weights = Weights(Path(kind), parsed, shapes, dict.fromkeys(shapes, dtype), lambda name: np.zeros(()))
    return entry.files.published_tensors(weights)[0]


def vae_tensors(config: Json, dtype: np.dtype) -> Tensors:
    def older(name: str) -> str:
        return re.sub(r"(?<=\.)(to_q|to_k|to_v|to_out\.0)(?=\.\w+$)", lambda part: _OLDER[part[0]], name)

    return {older(name): entry for name, entry in network_tensors("vae", config, dtype).items()}


def text_tensors(config: Json, dtype: np.dtype) -> Tensors:
    positions = {"text_model.embeddings.position_ids": ((1, config["max_position_embeddings"]), np.dtype(np.int64))}
    return {**network_tensors("text_encoder", config, dtype), **positions}


def pasd_unet_tensors(config: Json, dtype: np.dtype) -> Tensors:
    """PASD's U-Net (Yang et al. 2023): Stable Diffusion's, and in every up block a pixel-aware transformer a resnet.

    Its queries are the U-Net's features, its context the ControlNet's of the skip: as wide as the skip where the block
    has text attention, and as the block itself elsewhere.
    """
    own = network_tensors("unet", config, dtype)
    templates: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, (shape, _) in own.items():
        if found := re.fullmatch(r"(\w+_block(?:s\.\d+)?\.attentions\.0)\.(norm\.weight)", name):
            start = f"{found[1]}."
            module = {n.removeprefix(start): s for n, (s, _) in own.items() if n.startswith(start)}
            templates.setdefault(shape[0], module)
    widths, layers = config["block_out_channels"], config["layers_per_block"] + 1
    added = {}
    for block, width in enumerate(reversed(widths)):
        shallower = widths[max(len(widths) - 2 - block, 0)]
        for layer in range(layers):
            attended = config["up_block_types"][block] == "CrossAttnUpBlock2D"
            context = shallower if attended and layer == layers - 1 else width
            for name, shape in templates[width].items():
                if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                    shape = (shape[0], context)
                added[f"up_blocks.{block}.pixel_attentions.{layer}.{name}"] = (shape, dtype)
    return {**own, **added}


def pasd_controlnet_tensors(config: Json, dtype: np.dtype) -> Tensors:
    """PASD's ControlNet: the usual one, whose hint net also predicts small pictures while it is trained."""
    hint = config["conditioning_embedding_out_channels"]
    added = {}
    for i, width in enumerate(hint[1:]):
        name = f"controlnet_cond_embedding.to_rgbs.{i}"
        added |= {f"{name}.weight": ((3, width, 3, 3), dtype), f"{name}.bias": ((3,), dtype)}
    return {**network_tensors("controlnet", config, dtype), **added}


def taesd_tensors(config: Json, dtype: np.dtype) -> Tensors:
    """TAESD's, as diffusers' AutoencoderTiny names them: convolutions and blocks of three, in a row."""
    result = {}
    for side in ("encoder", "decoder"):
        for name, (inputs, outputs, bias) in _taesd_convolutions(config, side):
            result[f"{side}.layers.{name}.weight"] = ((outputs, inputs, 3, 3), dtype)
            if bias:
                result[f"{side}.layers.{name}.bias"] = ((outputs,), dtype)
    return result


def _taesd_convolutions(config: Json, side: str) -> Iterator[tuple[str, tuple[int, int, bool]]]:
    """(name, (channels in, channels out, whether it has a bias)) of every convolution."""
    widths, blocks = config[f"{side}_block_out_channels"], config[f"num_{side}_blocks"]
    encodes = side == "encoder"
    if encodes:
        yield "0", (config["in_channels"], widths[0], True)
        number = 1
    else:
        yield "0", (config["latent_channels"], widths[0], True)
        number = 2  # an activation follows
    for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        if encodes and level:
            yield str(number), (width, width, False)
            number += 1
        for _ in range(count):
            yield from ((f"{number}.conv.{i}", (width, width, True)) for i in (0, 2, 4))
            number += 1
        if not encodes and level < len(widths) - 1:
            yield str(number + 1), (width, width, False)  # after an upsampler
            number += 2
    yield str(number), (widths[-1], config["latent_channels"] if encodes else config["out_channels"], True)


def original_taesd_tensors(config: Json, side: str, dtype: np.dtype) -> Tensors:
    """One half of TAESD in its author's names, where the decoder begins with a module that limits the latents."""
    shift = side == "decoder"
    start = f"{side}.layers."
    tensors = {n.removeprefix(start): e for n, e in taesd_tensors(config, dtype).items() if n.startswith(start)}
    return {re.sub(r"^\d+", lambda number: str(int(number[0]) + shift), name): e for name, e in tensors.items()}


def lora_tensors(config: Json, dtype: np.dtype, rank: int = LORA_RANK) -> Tensors:
    """A LoRA of a U-Net in kohya's names, as LCM-LoRA and Hyper-SD are published.

    Every linear layer and convolution but the first and the last is adapted. For Stable Diffusion 1.5 at rank 64 that
    is 134.5 MB in float16, the size of the published LCM-LoRA.
    """
    result = {}
    for name, (shape, _) in network_tensors("unet", config, dtype).items():
        if not _ADAPTED.fullmatch(name):
            continue
        module = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        outputs, inputs, *kernel = shape
        result[f"{module}.alpha"] = ((), dtype)
        result[f"{module}.lora_down.weight"] = ((rank, inputs, *kernel), dtype)
        result[f"{module}.lora_up.weight"] = ((outputs, rank, *(1 for _ in kernel)), dtype)
    return result


def draw(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A tensor that depends on its name and shape alone: kernels that keep the size of activations, scales near one."""
    if dtype == np.int64:
        return np.arange(math.prod(shape)).reshape(shape)
    if name.endswith(".alpha"):
        return np.full(shape, LORA_RANK, dtype)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    value = rng.standard_normal(shape, np.float32)
    if len(shape) > 1:
        value *= np.float32(1 / math.sqrt(math.prod(shape[1:])))
    else:
        value = np.float32(0.02) * value + np.float32(name.endswith("weight"))
    return value.astype(dtype)


def write_tensors(folder: Path, stem: str, tensors: Tensors, infix: str = "", shards: int = 1) -> None:
    """Write a network's tensors as one file, or as shards with their index, where diffusers puts a variant's name."""

    def read(name: str) -> np.ndarray:
        return draw(name, *tensors[name])

    if shards == 1:
        write_safetensors(folder / f"{stem}{infix}.safetensors", tensors, read)
        return
    total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values())
    files: list[dict[str, tuple[tuple[int, ...], np.dtype]]] = [{} for _ in range(shards)]
    filled = 0
    for name, (shape, dtype) in tensors.items():
        files[min(filled * shards // total, shards - 1)][name] = shape, dtype
        filled += math.prod(shape) * dtype.itemsize
    weight_map = {}
    for number, part in enumerate(files, 1):
        file = f"{stem}{infix}-{number:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, part, read)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / f"{stem}.safetensors.index{infix}.json", index)


class Writer:
    """Writes published folders of one width, in some variants and numbers of shards."""

    def __init__(self, width: int | None, variants: Sequence[str], shards: int, tokenizer: Path | None):
        self.configs, self.variants, self.shards, self.tokenizer = configs(width), variants, shards, tokenizer

    def network(
        self, folder: Path, config: Json, tensors: Callable[[Json, np.dtype], Tensors], stem: str = STEM
    ) -> None:
        write_json(folder / "config.json", config)
        for variant in self.variants:
            infix, dtype = VARIANTS[variant]
            write_tensors(folder, stem, tensors(config, dtype), infix, self.shards)

    def stable_diffusion(self, folder: Path) -> None:
        self.network(folder / "unet", self.configs["unet"], lambda c, d: network_tensors("unet", c, d))
        self.network(folder / "vae", self.configs["vae"], vae_tensors)
        self.network(folder / "text_encoder", self.configs["text_encoder"], text_tensors, "model")
        write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
        write_json(folder / "feature_extractor" / "preprocessor_config.json", _FEATURES)
        write_json(folder / "safety_checker" / "config.json", _SAFETY)
        write_json(folder / "tokenizer" / "tokenizer_config.json", _TOKENIZER)
        write_json(folder / "tokenizer" / "special_tokens_map.json", _TOKENS)
        for name in ("vocab.json", "merges.txt") if self.tokenizer else ():
            assert self.tokenizer is not None
            shutil.copyfile(self.tokenizer / name, folder / "tokenizer" / name)
        write_json(folder / "model_index.json", _INDEX)

    def tile_controlnet(self, folder: Path) -> None:
        self.network(folder, self.configs["controlnet"], lambda c, d: network_tensors("controlnet", c, d))

    def taesd(self, folder: Path) -> None:
        config = self.configs["taesd"]
        write_json(folder / "config.json", config)
        write_tensors(folder, STEM, taesd_tensors(config, np.dtype(np.float32)))
        for side in ("encoder", "decoder"):
            write_tensors(folder, f"taesd_{side}", original_taesd_tensors(config, side, np.dtype(np.float32)))

    def lcm_lora(self, folder: Path) -> None:
        write_tensors(folder, "pytorch_lora_weights", lora_tensors(self.configs["unet"], np.dtype(np.float16)))

    def hyper_sd(self, folder: Path) -> None:
        for name in ("Hyper-SD15-1step-lora", "Hyper-SD15-8steps-lora", "Hyper-SD15-8steps-CFG-lora"):
            write_tensors(folder, name, lora_tensors(self.configs["unet"], np.dtype(np.float32)))

    def pasd(self, folder: Path) -> None:
        checkpoint = folder / "pasd" / "checkpoint-100000"
        unet = self.configs["unet"] | {"_diffusers_version": "0.21.4"}
        controlnet = self.configs["controlnet"] | {
            "return_rgbs": True,
            "use_rrdb": False,
            "_diffusers_version": "0.21.4",
        }
        self.network(checkpoint / "unet", unet, pasd_unet_tensors)
        self.network(checkpoint / "controlnet", controlnet, pasd_controlnet_tensors)


FOLDERS: Mapping[str, Callable[[Writer, Path], None]] = {
    "stable-diffusion-v1-5": Writer.stable_diffusion,
    "control_v11f1e_sd15_tile": Writer.tile_controlnet,
    "taesd": Writer.taesd,
    "lcm-lora-sdv1-5": Writer.lcm_lora,
    "Hyper-SD": Writer.hyper_sd,
    "PASD": Writer.pasd,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, help="where the folders are written; what is there is replaced file by file")
    add("--only", nargs="+", choices=list(FOLDERS), default=list(FOLDERS), help="some of the folders (default: all)")
    add("--width", type=int, help="channels of the U-Net's first block, a multiple of 8 (default: the published 320)")
    add("--variants", nargs="+", choices=list(VARIANTS), default=["fp32"], help="types (default: fp32)")
    add("--shards", type=int, default=1, help="files for each network (default: %(default)s)")
    add("--tokenizer", type=Path, help="a folder with CLIP's vocab.json and merges.txt, to be copied")
    arguments = parser.parse_args(argv)
    if arguments.width is not None and (arguments.width < 8 or arguments.width % 8):
        parser.error(f"--width is {arguments.width}, expected a multiple of 8")
    if arguments.shards < 1:
        parser.error(f"--shards is {arguments.shards}, expected at least 1")
    writer = Writer(arguments.width, arguments.variants, arguments.shards, arguments.tokenizer)
    for name in arguments.only:
        FOLDERS[name](writer, arguments.folder / name)


if __name__ == "__main__":
    main()
