"""Attacks every reader of foreign bytes with damaged files, each in a process of its own.

    python -m tests.fuzz --runs 20000                   all targets
    python -m tests.fuzz --runs 500000 picture torch    some of them

A target of a higher cost gets fewer inputs. Inputs that found a fault are written to --output, one for each kind of
fault; once it is mended, they belong into tests/fuzz/corpus/TARGET. The exit code is 1 if there were faults.
"""

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from hashlib import sha256
from pathlib import Path

from tests.fuzz.running import bounded, measured
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=2000, help="inputs for a target of cost 1 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws other inputs (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("faults"), help="default: %(default)s")
    args = parser.parse_args()
    if unknown := set(args.targets) - TARGETS.keys():
        parser.error(f"{', '.join(unknown)}: no such target, expected some of {', '.join(TARGETS)}")
    print("| target | inputs | read | faults | seconds | slowest | memory |\n|---|---|---|---|---|---|---|", flush=True)
    total = faults = 0
    for name in args.targets or TARGETS:
        start = time.monotonic()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=bounded) as process:
            try:
                found, memory = process.submit(measured, name, args.runs // TARGETS[name].cost, args.seed).result()
            except BrokenProcessPool:
                print(f"| {name} | its process crashed |", flush=True)
                faults += 1
                continue
        seconds = time.monotonic() - start
        print(
            f"| {name} | {found.inputs:,} | {found.read:,} | {len(found.faults)} | {seconds:.0f} "
            f"| {found.slowest:.2f} s | {memory / 1e6:.0f} MB |",
            flush=True,
        )
        for fault, data in found.faults.items():
            print(f"    {fault}", flush=True)
            (args.output / name).mkdir(parents=True, exist_ok=True)
            (args.output / name / sha256(data).hexdigest()[:12]).write_bytes(data)
        total, faults = total + found.inputs, faults + len(found.faults)
    print(f"\n{total:,} inputs, {faults} kinds of faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
