#!/usr/bin/env python
"""Compare sampling with torch diffusers, and measure a folder of mixed pictures on several devices.

    python benchmarks/sampling.py torch              # Stable Diffusion 1.5's size; needs the extra `reference`
    python benchmarks/sampling.py torch --narrow     # small networks, seconds
    python benchmarks/sampling.py folder --devices 1 2 4 8

`torch`: one 512 px picture through a ControlNet, the U-Net with guidance and the decoder: the first stage `controlnet`
here, `StableDiffusionControlNetPipeline` there, with the same random weights. The two programs are processes that
take turns, so that both meet the same machine. `folder`: as many pictures as --pictures says, each of another size,
through a whole cascade of small networks; on a CPU the devices are simulated and share its cores, so equal times mean
that no work was done twice.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import cassr_jax
from cassr_jax.cascade import CasSR
from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.evaluation.statistics import mean
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import Networks, shapes_of, write_network
from cassr_jax.weights.configs import AttachedConfig

NARROW = UNetConfig(
    block_out_channels=(32, 64, 64, 64), cross_attention_dim=64, norm_num_groups=16, attention_head_dim=4
)


KINDS = ("unet", "vae", "text_encoder", "activation_controlnet")


def networks(narrow: bool) -> dict[str, Any]:
    """The configurations of the networks that both programs run."""
    unet = NARROW if narrow else UNetConfig()
    return {
        "unet": unet,
        "vae": VAEConfig(block_out_channels=(32, 32, 64, 64), norm_num_groups=16) if narrow else VAEConfig(),
        "text_encoder": LearnedContextConfig(num_tokens=77, hidden_size=unet.cross_attention_dim),
        "activation_controlnet": AttachedConfig(unet, ControlNetConfig()),
    }


def write(folder: Path, narrow: bool) -> None:
    """Random weights of every network, small enough that nothing overflows."""
    rng = np.random.default_rng(0)

    def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("scale"):
            return np.ones(shape, np.float32)
        return np.float32(0.02) * rng.standard_normal(shape, np.float32)

    for kind, config in networks(narrow).items():
        params = {name: drawn(name, shape.shape) for name, shape in shapes_of(kind, config).items()}
        write_network(folder / kind, kind, config, params)


def ours(folder: Path, size: int, steps: int) -> Callable[[], object]:
    sampling = SamplingConfig(num_steps=steps, start="noise", sampler="ddim", negative_prompt="")
    config = CascadeConfig(
        activation="controlnet", schedule=Schedule(), activation_sampling=sampling, sampling=sampling, tile=size
    )
    read = Networks()
    for kind in KINDS:
        read = read.with_read(kind, str(folder / kind), "float32")
    cassr = CasSR(config, read)
    picture = np.random.default_rng(1).integers(0, 256, (size // 4, size // 4, 3)).astype(np.uint8)
    return lambda: cassr.reference(picture)


def theirs(folder: Path, size: int, steps: int) -> Callable[[], object]:
    import torch
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        DDIMScheduler,
        StableDiffusionControlNetPipeline,
        UNet2DConditionModel,
    )
    from safetensors.numpy import load_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = StableDiffusionControlNetPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False),
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False),
        controlnet=ControlNetModel.from_pretrained(folder / "activation_controlnet", low_cpu_mem_usage=False),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    (contexts,) = load_file(next((folder / "text_encoder").glob("*.safetensors"))).values()
    negative, positive = (torch.from_numpy(contexts[i : i + 1]).to(device) for i in (0, 1))
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)

    def run() -> object:
        return pipeline(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            image=image,
            num_inference_steps=steps,
            guidance_scale=5.5,
            output_type="np",
        )

    return run


PROGRAMS = {"ours": ours, "torch": theirs}


def peak_of(name: str) -> int:
    """The most memory that a program has held so far, in bytes."""
    if name == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    stats = None if name == "torch" else jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(name: str, folder: Path, size: int, steps: int) -> None:
    """Restores one picture for each line that comes in, and prints the seconds and the peak memory in bytes.

    The memory is the device's: a GPU's if there is one, and else this process's.
    """
    run = PROGRAMS[name](folder, size, steps)
    for _ in sys.stdin:
        start = time.perf_counter()
        jax.block_until_ready(run())
        print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak_of(name)}), flush=True)


def beside_torch(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds a picture and peak memory of both programs, which take turns; the first picture of each is apart."""
    with tempfile.TemporaryDirectory(prefix="cassr-sampling-") as name:
        write(Path(name), args.narrow)
        size = 128 if args.narrow else args.size
        command = [sys.executable, __file__, "torch", "--folder", name, "--size", str(size), "--steps", str(args.steps)]
        children = {
            program: subprocess.Popen(
                [*command, "--serve", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for program in PROGRAMS
        }
        turns: dict[str, list[dict[str, float]]] = {program: [] for program in PROGRAMS}
        for _ in range(1 + args.repeats):
            for program, child in children.items():
                assert child.stdin is not None
                assert child.stdout is not None
                print("go", file=child.stdin, flush=True)
                turns[program].append(json.loads(child.stdout.readline()))
        for child in children.values():
            child.communicate()
    found = {
        program: {
            "first_seconds": each[0]["seconds"],
            "median_seconds": statistics.median(turn["seconds"] for turn in each[1:]),
            "standard_error": mean([turn["seconds"] for turn in each[1:]]).error,
            "peak_bytes": max(turn["peak"] for turn in each),
        }
        for program, each in turns.items()
    }
    ratio = found["ours"]["median_seconds"] / found["torch"]["median_seconds"]
    return {"size": size, "steps": args.steps, "programs": found, "ratio": ratio}


def pictures(count: int) -> list[np.ndarray]:
    """Pictures of `count` sizes: from 8x8 px, each one higher and two wider than the last."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (8 + i, 8 + 2 * i, 3)).astype(np.uint8) for i in range(count)]


def folder_of_pictures(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds for mixed pictures on several numbers of devices, each after a first run that compiles."""
    found = {}
    for devices in args.devices:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        command = [sys.executable, __file__, "folder", "--serve", str(devices), "--source", args.source]
        command += ["--repeats", str(args.repeats), "--pictures", str(args.pictures)]
        made = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, check=True, stdout=subprocess.PIPE)
        found[devices] = json.loads(made.stdout)
    return {"source": args.source, "pictures": args.pictures, "devices": found}


def serve_folder(source: str, count: int, devices: int, repeats: int) -> None:
    cassr = cassr_jax.load(source, devices=devices)
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        for outcome in cassr.restore_many(iter(pictures(count))):
            assert not isinstance(outcome, Exception), outcome
        seconds.append(time.perf_counter() - start)
    taken = mean(seconds[1:])
    print(json.dumps({"first_seconds": seconds[0], "seconds": taken.value, "standard_error": taken.error}))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["torch", "folder"])
    parser.add_argument("--narrow", action="store_true", help="small networks")
    parser.add_argument("--size", type=int, default=512, help="side of the picture in px (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="sampling steps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs after the first (default: %(default)s)")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--pictures", type=int, default=64, help="how many `folder` restores (default: %(default)s)")
    parser.add_argument("--source", default="tiny", help="the cascade of `folder` (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve and args.what == "torch":
        serve(args.serve, args.folder, args.size, args.steps)
    elif args.serve:
        serve_folder(args.source, args.pictures, int(args.serve), args.repeats)
    else:
        found = beside_torch(args) if args.what == "torch" else folder_of_pictures(args)
        text = json.dumps(found, indent=2)
        print(text)
        if args.output:
            args.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
