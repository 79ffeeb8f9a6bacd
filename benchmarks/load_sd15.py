#!/usr/bin/env python
"""Measure the time and the peak memory of loading Stable Diffusion 1.5 (U-Net, autoencoder, text encoder).

    python benchmarks/load_sd15.py --folder /tmp

A checkpoint of the full size, 4.3 GB in float32, is written below FOLDER, read once so that the disk is warm, loaded in
fresh processes, and deleted. The bounds are 20 s and a peak of 1.25 times the weights, which rules out a second copy.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from cassr_jax.evaluation.statistics import mean
from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import Networks, shapes_of, write_network

CONFIGS = {"unet": UNetConfig(), "vae": VAEConfig(), "text_encoder": CLIPTextConfig()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="folder with room for 4.3 GB (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="number of loads (default: %(default)s)")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="sd15-") as name:
        make(Path(name))
        warm(Path(name))
        command = [sys.executable, __file__, "--load", name]
        runs = [subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout for _ in range(args.repeats)]
    loads = [json.loads(run) for run in runs]
    found = max(loads, key=lambda load: load["peak"])
    clock, cpu = (mean([load[name] for load in loads]) for name in ("seconds", "cpu"))
    print(f"weights      {found['weights'] / 1e9:.2f} GB")
    print(f"load time    {clock.value:.1f} +- {clock.error:.1f} s of the clock (bound: 20)")
    print(f"             {cpu.value:.1f} +- {cpu.error:.1f} s of CPU")
    ratio = found["peak"] / found["weights"]
    print(f"peak memory  {found['peak'] / 1e9:.2f} GB = {ratio:.3f} x the weights (bound: 1.25)")
    print(f"             {found['before'] / 1e9:.2f} GB of it before loading: Python, JAX")


def make(folder: Path) -> None:
    for kind, config in CONFIGS.items():
        shapes = shapes_of(kind, config)
        params = {name: np.broadcast_to(np.float32(0.1), shape.shape) for name, shape in shapes.items()}
        write_network(folder / kind, kind, config, params)


def warm(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def load(folder: Path) -> dict[str, float]:
    jax.devices()
    before = peak()
    start, cpu = time.perf_counter(), time.process_time()
    networks = Networks()
    for kind in CONFIGS:
        networks = networks.with_read(kind, str(folder), "float32")
    jax.block_until_ready(networks.params)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    weights = sum(value.nbytes for value in networks.params.values())
    return {"seconds": seconds, "cpu": cpu, "weights": weights, "before": before, "peak": peak()}


def peak() -> int:
    """The peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
