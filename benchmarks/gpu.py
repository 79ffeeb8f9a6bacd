#!/usr/bin/env python
"""Measure everything worth measuring on a GPU, within a time limit: Stable Diffusion 1.5's widths in bfloat16.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --table     # print the tables of what was measured so far
    python benchmarks/gpu.py --narrow    # small networks and few sizes, on a CPU too

There are parts of seven kinds: the kernels of `attention` against each other, in value and in time; a step of the
`unet`; the same step of diffusers' U-Net in `torch`, and `compiled` by torch; the `train` step of the second stage; the
`start` of a new process, up to its first step; and the whole `cascade`. Each part is written to a JSON file of this
kind of device as soon as it is measured. The same command goes on with the parts that are not there yet. It needs no
file besides the repository; all weights are random. Torch's parts need a torch that has CUDA, and diffusers.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cassr_jax.commands.running import command
from cassr_jax.compiled import keep_compiled_functions
from cassr_jax.printing import say

ROOT = Path(__file__).parents[1]
KINDS = ("attention", "unet", "torch", "compiled", "train", "start", "cascade")


@command("gpu.py")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=KINDS, default=KINDS, help="kinds of parts to measure (default: all)")
    add("--minutes", type=float, default=8, help="time for all parts; the others are left out (default: %(default)s)")
    add("--again", action="store_true", help="also measure parts that were measured before")
    add("--narrow", action="store_true", help="small networks, few sizes")
    add("--table", action="store_true", help="measure nothing, print the tables")
    add("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the JSON files")
    args = parser.parse_args(argv)

    keep_compiled_functions()
    if str(ROOT) not in sys.path:  # a script finds only what lies beside it
        sys.path.insert(0, str(ROOT))
    # Imported only now, because JAX alone takes seconds.
    from benchmarks.on_gpu.parts import described, parts
    from benchmarks.on_gpu.running import Results, run
    from benchmarks.on_gpu.table import table
    from cassr_jax.errors import InputError
    from cassr_jax.files import read_json
    from cassr_jax.sharding.child import in_child

    if args.table:
        files = sorted(args.output.glob("*.json"))
        if not files:
            raise InputError(f"{args.output}: holds no results, expected a JSON file; measure some first")
        say("\n\n".join(table(read_json(file)) for file in files))
        return 0

    device = in_child(described)
    name = re.sub(r"\W+", "_", device["kind"].lower()) + ("_narrow" if args.narrow else "")
    results = Results(args.output / f"{name}.json", device)
    wanted = [part for part in parts(args.narrow) if part.kind in args.parts]
    run(wanted, results, again=args.again, seconds=60 * args.minutes, say=say)
    say("\n" + table(results.content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
