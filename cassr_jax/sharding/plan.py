"""Plan a training on TPUs or GPUs that need not be here: does it fit, how long does it take, and what limits it?

    python -m cassr_jax.sharding.plan --config configs/sd15_cassr.py --on v5e:4x4 h200:8 --strategy fsdp

The real training step is compiled for the devices, from shapes alone, and its program is read: memory, products, and
every collective with the axes of the mesh, its bytes and the line of Python that it came from. Seconds follow from the
published rates of the chips (cassr_jax/sharding/chips.py); docs/sharding.md says how.
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cassr_jax.commands.options import add_options, local_path
from cassr_jax.commands.running import command
from cassr_jax.compiled import cache_folder, source_digest, version_of
from cassr_jax.errors import InputError
from cassr_jax.files import parse_json, replaced, write_json
from cassr_jax.printing import complain, notice, say
from cassr_jax.sharding.strategies import STRATEGIES

if TYPE_CHECKING:
    from cassr_jax.config import TrainConfig
    from cassr_jax.sharding.planned import Plan

PROGRAM = "plan"

EPILOG = """
examples:
  ... --on v5e:2x4                          8 chips of TPU v5e; also v4, v5p, v6e (needs the extra `tpu`)
  ... --on h200:8 h100:64x8                 8 GPUs, and 64 hosts of 8 (needs JAX's packages for CUDA, but no GPU)
  ... --on v5e --scan 8,32,128,256          slices of so many chips, the batch growing with them
  ... --strategy dp fsdp fsdp_tp            a column for each
  ... --set batch_size=64 remat=blocks      as for train.py
"""


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from cassr_jax.config_files import read_config
    from cassr_jax.sharding.page import page
    from cassr_jax.sharding.report import table
    from cassr_jax.sharding.topologies import slice_of

    config = read_config(args.config, args.set)
    if args.scan is None:
        cases = [(on, config) for on in args.on]
    else:
        each = config.batch_size / args.scan[0]
        sized = [replace(config, batch_size=round(each * count)) for count in args.scan]
        cases = [
            (slice_of(kind, count), grown) for kind in args.on for count, grown in zip(args.scan, sized, strict=True)
        ]
    plans, failed = [], 0
    for on, given in cases:
        for name in args.strategy or [None]:
            chosen = given if name is None else replace(given, strategy=STRATEGIES[name])
            try:
                plans.append(planned(chosen, on, name or "as configured", args.effort))
            except InputError as error:  # the other plans are still worth having
                complain(error, PROGRAM)
                failed += 1
    if plans:
        say(table(plans))
        if args.json is not None:
            write_json(args.json, {"plans": [plan.as_json() for plan in plans]})
        if args.page is not None:
            line = f"python -m cassr_jax.sharding.plan {shlex.join(sys.argv[1:] if argv is None else argv)}"
            with replaced(args.page) as file:
                file.write(page(plans, line).encode())
    return 2 if failed else 0


def planned(config: "TrainConfig", on: str, strategy: str, effort: str) -> "Plan":
    """The plan of one case; it is kept, and found again while neither the case nor the program changes."""
    from cassr_jax.sharding.planned import Plan
    from cassr_jax.training.compile_ahead import compile_for

    path = kept(config, on, strategy, effort)
    with suppress(InputError, OSError, KeyError, TypeError, AttributeError):  # a damaged one is made anew
        return Plan.from_json(parse_json(path.read_bytes(), path))
    notice(f"compiling for {on}, {strategy}: minutes at the size of Stable Diffusion", PROGRAM)
    start = time.monotonic()
    plan = compile_for(config, on, strategy, effort)  # pyright: ignore[reportArgumentType]
    notice(f"compiled for {on}, {strategy} in {time.monotonic() - start:.0f} s", PROGRAM)
    with suppress(InputError, OSError):  # a plan needs no store
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plan.as_json())
    return plan


def kept(config: "TrainConfig", on: str, strategy: str, effort: str) -> Path:
    """The file of a plan, named by everything that it depends on."""
    from cassr_jax.config_files import to_json

    versions = [version_of(name) for name in ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda12-plugin")]
    known = json.dumps([to_json(config), on, strategy, effort, versions, source_digest()], sort_keys=True)
    return cache_folder() / "plans" / f"{hashlib.sha256(known.encode()).hexdigest()[:40]}.json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m cassr_jax.sharding.{PROGRAM}",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", required=True, type=local_path, help="a Python file that defines `config`, a TrainConfig")
    add(
        "--on",
        required=True,
        nargs="+",
        metavar="DEVICES",
        help="TPU slices such as v5e:4x4, or GPUs such as h200:8 or h100:64x8 (hosts x GPUs); with --scan, kinds",
    )
    add("--strategy", nargs="+", choices=STRATEGIES, help="how devices share a step; by default the configuration's")
    add(
        "--scan",
        type=counts,
        metavar="N,N",
        help="numbers of devices; the configuration's batch is that of the first, and grows with them",
    )
    add(
        "--effort",
        choices=["quick", "full"],
        default="quick",
        help="how hard the compiler tries; quick takes minutes at the size of Stable Diffusion (default: quick)",
    )
    add("--json", type=local_path, metavar="FILE", help="also write the plans to FILE, with every collective")
    add("--page", type=local_path, metavar="FILE", help="also write an HTML page with drawings to FILE")
    add_options(parser, "set")
    args = parser.parse_args(argv)
    if args.scan is None and (bare := [on for on in args.on if ":" not in on]):
        parser.error(f"--on {bare[0]}: expected a size too, such as {bare[0]}:8 or {bare[0]}:2x4, or --scan")
    if args.scan is not None and (sized := [on for on in args.on if ":" in on]):
        parser.error(f"--on {sized[0]}: expected only the kind beside --scan, such as {sized[0].partition(':')[0]}")
    return args


def counts(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}, expected numbers of devices such as 8,32,128")
    return list(map(int, numbers))


if __name__ == "__main__":
    sys.exit(main())
