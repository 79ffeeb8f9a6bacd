#!/usr/bin/env python
"""Measure how long a start takes at Stable Diffusion 1.5's size, beside the time in which it reads the weights.

    python -m benchmarks.start             # writes 5.9 GB below the folder for temporary files
    python -m benchmarks.start --narrow    # small networks, seconds

Each start is a process that reads the networks of `benchmarks/sampling.py torch` and restores two 512 px pictures in
one step each. What the first picture takes beyond the second is the start's: reading or compiling the programs. The
first start compiles; the later ones find what it has kept. The part `start` of `benchmarks/gpu.py` measures the U-Net
alone, whose weights are drawn on the GPU. A later start should take at most 1.5 times as long as reading the weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.sampling import KINDS, ours, write
from cassr_jax.compiled import PROGRAMS
from cassr_jax.evaluation.statistics import mean
from cassr_jax.printing import say

ROOT = Path(__file__).parents[1]
POINTS = ("imports", "weights", "programs")


def start(folder: Path, size: int) -> dict[str, float]:
    """The seconds that each part of one start takes, in a new process that finds in `folder` what others have kept."""
    settings = {
        PROGRAMS: str(folder / "programs"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "benchmarks.start", "--serve", str(folder), "--size", str(size)]
    command += ["--launched", repr(time.monotonic())]
    return json.loads(subprocess.run(command, env=os.environ | settings, check=True, stdout=subprocess.PIPE).stdout)


def serve(folder: Path, size: int, launched: float) -> dict[str, float]:
    """`launched` is the parent's `time.monotonic()`, which all processes share."""
    imported = time.monotonic()
    run = ours(folder, size, 1)
    read = time.monotonic()
    run()
    first = time.monotonic()
    run()
    second = time.monotonic()
    return dict(zip(POINTS, (imported - launched, read - imported, (first - read) - (second - first)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--narrow", action="store_true", help="small networks")
    parser.add_argument("--size", type=int, default=512, help="side of the pictures in px (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="later starts (default: %(default)s)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--launched", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        say(json.dumps(serve(args.serve, args.size, args.launched)))
        return
    with tempfile.TemporaryDirectory(prefix="cassr-start-") as name:
        folder = Path(name)
        write(folder, args.narrow)
        for path in (path for kind in KINDS for path in (folder / kind).iterdir()):
            path.read_bytes()  # the disk is warm for every start
        first, *later = (start(folder, args.size) for _ in range(1 + args.repeats))
    say(f"{'seconds':<12}{'first start':>14}{'later starts':>20}")
    for point in POINTS:
        taken = mean([each[point] for each in later])
        say(f"{point:<12}{first[point]:14.1f}{taken.value:12.1f} ± {taken.error:.1f}")
    ratio = mean([sum(each.values()) / each["weights"] for each in later])
    say(f"a later start takes {ratio.value:.2f} ± {ratio.error:.2f} times as long as reading the weights (bound: 1.5)")


if __name__ == "__main__":
    main()
