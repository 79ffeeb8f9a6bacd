"""Write folders as the hub has them, with random weights: what is tried on real files can be tried without them.

    python -m benchmarks.published_folders FOLDER
    python -m benchmarks.published_folders FOLDER --width 32 --only stable-diffusion-v1-5 --shards 3
    python -m benchmarks.published_folders FOLDER --tokenizer CLIP --only stable-diffusion-v1-5

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

from benchmarks.published_configs import FEATURES, INDEX, SAFETY, SCHEDULER, TOKENIZER, TOKENS, configs
from cassr_jax.files import Json, write_json
from cassr_jax.kinds import KINDS
from cassr_jax.weights.published import Published
from cassr_jax.weights.safetensors import write_safetensors
from cassr_jax.weights.tensors import Weights

Tensors = Mapping[str, tuple[tuple[int, ...], np.dtype]]

STEM = "diffusion_pytorch_model"
VARIANTS = {"fp32": ("", np.dtype(np.float32)), "fp16": (".fp16", np.dtype(np.float16))}
LORA_RANK = 64

# Stable Diffusion 1.5's autoencoder was published with the older names of its attention.
_OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
# The modules that LCM-LoRA and Hyper-SD adapt.
_ADAPTED = re.compile(
    r".*\.(to_[qkv]|to_out\.0|proj_in|proj_out|net\.0\.proj|net\.2|conv1|conv2|conv_shortcut|(down|up)samplers\.0\.conv"
    r"|time_emb_proj)\.weight"
)


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
        write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
        write_json(folder / "feature_extractor" / "preprocessor_config.json", FEATURES)
        write_json(folder / "safety_checker" / "config.json", SAFETY)
        write_json(folder / "tokenizer" / "tokenizer_config.json", TOKENIZER)
        write_json(folder / "tokenizer" / "special_tokens_map.json", TOKENS)
        for name in ("vocab.json", "merges.txt") if self.tokenizer else ():
            assert self.tokenizer is not None
            shutil.copyfile(self.tokenizer / name, folder / "tokenizer" / name)
        write_json(folder / "model_index.json", INDEX)

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
