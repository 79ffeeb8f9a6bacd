"""Plan a run on TPUs or GPUs that need not be here: does it fit, how long does it take, and what limits it?

    python -m cassr_jax.sharding.plan --config configs/sd15_cassr.py --on v5e:4x4 h200:8 --strategy fsdp
    python -m cassr_jax.sharding.plan --config configs/sd15.py --on h200:8 --sample

The real training step, or with --sample the programs of sample.py, are compiled for the devices, from shapes alone, and
read: memory, products, and every collective with the axes of the mesh, its bytes and the line of Python that it came
from. Seconds follow from the published rates of the chips (cassr_jax/sharding/chips.py); docs/sharding.md says how.
"""

import argparse
import hashlib
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cassr_jax.commands.about import add_about, called
from cassr_jax.commands.options import add_options, local_path, number
from cassr_jax.commands.running import command
from cassr_jax.compiled import COMPILERS, cache_folder, source_digest, version_of
from cassr_jax.errors import InputError
from cassr_jax.files import Json, check_folder, is_folder, parse_json, replaced, same_place, write_json
from cassr_jax.printing import complain, notice, say
from cassr_jax.ranges import COUNT
from cassr_jax.sharding.strategies import STRATEGIES

if TYPE_CHECKING:
    from cassr_jax.config import TrainConfig
    from cassr_jax.sharding.planned import Plan
    from cassr_jax.sharding.sampled import SamplePlan
    from cassr_jax.training.search import Site
    from cassr_jax.typing import Device

T = TypeVar("T")

PROGRAM = "plan"
AUTO = "auto"
_SETTINGS = (  # how variables begin that change what is compiled
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_", "TPU_LIBRARY_PATH", "NVIDIA_TF32_OVERRIDE"),
)
_PATHS = ("JAX_COMPILATION_CACHE_DIR", "JAX_PLATFORMS")  # and which do not

EPILOG = """
examples:
  ... --on v5e:2x4                          8 chips of TPU v5e; also v4, v5p, v6e, tpu7x (extra `tpu`)
  ... --on v5e:16x16@2                      two slices of 256 chips, with the network between them
  ... --on h200:8 h100:64x8                 8 GPUs, and 64 hosts of 8 (needs the extra `plan-gpu`, but no GPU)
  ... --on v5e --scan 8,32,128,256          slices of so many chips, the batch growing with them
  ... --strategy dp fsdp fsdp_tp            a column for each
  ... --set batch_size=64 remat=blocks      as for train.py
  ... --sample --set sampling.num_steps=20  a cascade, and a change of its configuration
  ... --on h200:8 --measure 20              run 20 steps too, on a machine with these GPUs
  ... --on cpu:8                            devices that this machine's processor simulates: no seconds
"""


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from cassr_jax.sharding.compiler import compiling
    from cassr_jax.sharding.page import page
    from cassr_jax.sharding.planned import Plan
    from cassr_jax.sharding.report import table

    if args.layout:
        cases = trained(args, call)
        say(
            "\n\n".join(compiling(case.on, "quick", layout, case.known["config"], case.on, case.name) for case in cases)
        )
        return 0
    effort, plans, failed = args.effort or ("full" if args.measure else "quick"), [], []

    def attempt(make: Callable[[], T]) -> T | None:
        try:
            return make()
        except InputError as error:  # the other plans are still worth having
            complain(error, PROGRAM)
            failed.append(error)

    ways: dict[str, list[tuple[Plan, str]]] = {}
    for case in sampled(args) if args.sample else trained(args, attempt):
        plan = attempt(partial(planned, case, effort, keep=not args.measure))
        plans += [] if plan is None else [plan]
        if case.options and isinstance(plan, Plan):
            ways.setdefault(case.on, []).append((plan, case.options))
    if plans:
        say("\n\n".join([table(plans), *filter(None, map(fastest, ways.values()))]))
        if args.json is not None:
            write_json(args.json, {"plans": [plan.as_json() for plan in plans]})
        if args.page is not None:
            line = f"python -m cassr_jax.sharding.plan {shlex.join(sys.argv[1:] if argv is None else argv)}"
            with replaced(args.page) as file:
                file.write(page(plans, line).encode())
    return 2 if failed else 0


@dataclass(frozen=True)
class Case:
    """A program on some devices.

    Attributes:
        kind: the class of its plan.
        on: the devices.
        name: of the strategy or of the cascade.
        make: compiles with an effort, and returns the plan.
        known: everything that the plan depends on besides the effort and the versions of programs.
        options: those of train.py that mean this way, if the planner chose it.
    """

    kind: "type[Plan] | type[SamplePlan]"
    on: str
    name: str
    make: "Callable[[Any], Plan | SamplePlan]"
    known: Json
    options: str = ""


def call(make: Callable[[], T]) -> T:
    """Calls it, and leaves its errors alone."""
    return make()


def fastest(ways: "Sequence[tuple[Plan, str]]") -> str:
    """Which of the compiled ways of `auto` to take; empty if there are no seconds, or none fits."""
    timed = [
        (plan.account.times.guess, plan.title, options)
        for plan, options in ways
        if plan.account.times is not None and plan.account.fits is not False
    ]
    if not timed:
        return ""
    _, title, options = min(timed)
    return f"fastest of the ways of {AUTO} that fit: {title}\n  {options}"


def trained(args: argparse.Namespace, attempt: Callable[[Callable[[], Any]], Any]) -> list[Case]:
    """The training steps that are asked for.

    Args:
        attempt: calls a function that may raise an InputError for one of them; None stands for what it refuses.
    """
    from cassr_jax.config_files import read_config, to_json
    from cassr_jax.sharding.planned import Plan
    from cassr_jax.sharding.topologies import slice_of
    from cassr_jax.training import compile_ahead

    named = {name: None if name in (None, AUTO) else STRATEGIES[name] for name in args.strategy or [None]}
    configs = {name or "as configured": read_config(args.config, args.set, given) for name, given in named.items()}
    found = []
    for kind in args.on:
        for count in args.scan or [None]:
            on: str | None = kind if count is None else attempt(partial(slice_of, kind, count))
            if on is None:
                continue
            for name, config in configs.items():
                if count is not None:
                    if config.batch_size * count % args.scan[0]:
                        raise InputError(
                            f"--scan: batch_size is {config.batch_size} for {args.scan[0]} devices, expected one that "
                            f"gives a whole batch for {count}"
                        )
                    config = replace(config, batch_size=config.batch_size * count // args.scan[0])
                chosen = attempt(partial(best, config, on, args.compile)) if name == AUTO else {name: (config, "")}
                for title, (each, options) in (chosen or {}).items():
                    make = partial(compile_ahead.compile_for, each, on, title, measured_steps=args.measure)
                    known = {"config": to_json(each), "networks": compile_ahead.described(each)}
                    found.append(Case(Plan, on, title, make, known, options))
    return found


def best(config: "TrainConfig", on: str, count: int) -> "dict[str, tuple[TrainConfig, str]]":
    """The divisions of a step that arithmetic puts first, by name, each with its options; it says how it ranks them.

    Raises:
        InputError: the devices or their rates are not known, or nothing divides the batch.
    """
    from cassr_jax.sharding.chips import CHIPS
    from cassr_jax.sharding.compiler import compiling
    from cassr_jax.training.outline import outline_of
    from cassr_jax.training.search import candidates, choices, ranking

    kind = on.partition(":")[0]
    if kind not in CHIPS:
        raise InputError(f"{on}: its rates are not known, expected devices of {', '.join(CHIPS)} for --strategy {AUTO}")
    site = compiling(on, "quick", site_of, on)
    notice(f"reading the costs of a step for {on}", PROGRAM)
    found = choices(config, outline_of(config), site, CHIPS[kind])
    say(f"{on}, {config.batch_size} examples: {ranking(found, CHIPS[kind])}\n")
    return {choice.says: (choice.config, choice.options) for choice in candidates(found, count, CHIPS[kind].memory)}


def site_of(devices: "Sequence[Device]", on: str) -> "Site":
    """What the search asks of the devices of that name."""
    from cassr_jax.sharding.topologies import GPUS, sides_of
    from cassr_jax.training.search import Site

    sides, slices = sides_of(on)
    hosts = len({device.process_index for device in devices})
    if on.partition(":")[0] in GPUS:
        return Site(len(devices), sides[-1:], hosts)
    cores = len(devices) // (math.prod(sides) * slices)  # a chip of TPU7x is two devices
    return Site(len(devices), [*sides, *([cores] if cores > 1 else [])], hosts, slices)


def sampled(args: argparse.Namespace) -> list[Case]:
    """The cascades that are to be sampled."""
    from cassr_jax import sampling_ahead
    from cassr_jax.config_files import override, to_json
    from cassr_jax.loading import read_cascade
    from cassr_jax.sharding.sampled import SamplePlan

    config, base = read_cascade(args.config)
    config, name = override(config, args.set), str(args.config)
    networks = sampling_ahead.described(config, name, base)
    known = {"cascade": to_json(config), "base": str(base.absolute()), "networks": networks}
    make = partial(sampling_ahead.plan_sampling, config, name, base)
    return [Case(SamplePlan, on, name, partial(make, on), known) for on in args.on]


def layout(devices: "Sequence[Device]", known: Json, on: str, name: str) -> str:
    """Where every parameter and every named value of a step lies on some devices."""
    from cassr_jax.config import TrainConfig
    from cassr_jax.config_files import from_json
    from cassr_jax.sharding.placement import Placement
    from cassr_jax.sharding.report import layout_table
    from cassr_jax.training.compile_ahead import layout_of

    config = from_json(TrainConfig, known, name)
    placement = Placement.of(config.strategy, devices)
    return f"{on} {name}\n\n{layout_table(layout_of(config, placement))}"


def planned(case: Case, effort: str, keep: bool) -> "Plan | SamplePlan":
    """The plan of one case; with `keep` it is kept, and found again while neither the case nor the program changes."""
    path = kept(case, effort) if keep else None
    if path is not None:
        with suppress(InputError, OSError, KeyError, TypeError, AttributeError):  # a damaged one is made anew
            return case.kind.from_json(parse_json(path.read_bytes(), path))
    notice(f"compiling for {case.on}, {case.name}: minutes at the size of Stable Diffusion", PROGRAM)
    start = time.monotonic()
    plan = case.make(effort)
    notice(f"compiled for {case.on}, {case.name} in {time.monotonic() - start:.0f} s", PROGRAM)
    if path is not None:
        with suppress(InputError, OSError):  # a plan needs no store
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, plan.as_json())
    return plan


def kept(case: Case, effort: str) -> Path | None:
    """The file of a plan, named by everything that it depends on; None for a user without a home."""
    versions = [version_of(name) for name in COMPILERS]
    settings = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS) and name not in _PATHS}
    known = json.dumps([case.known, case.on, case.name, effort, versions, settings, source_digest()], sort_keys=True)
    with suppress(RuntimeError):
        return cache_folder() / "plans" / f"{hashlib.sha256(known.encode()).hexdigest()[:40]}.json"
    return None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=called(f"python -m cassr_jax.sharding.{PROGRAM}"),
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--config",
        required=True,
        type=local_path,
        help="a Python file that defines `config`, a TrainConfig, or the name of one in configs/; with --sample, a "
        "cascade as sample.py takes it",
    )
    add("--sample", action="store_true", help="plan the sampling of a cascade, with as many pictures as fill a host")
    add(
        "--on",
        required=True,
        nargs="+",
        metavar="DEVICES",
        help="TPU slices such as v5e:4x4, two of them v5e:4x4@2, or GPUs such as h200:8 or h100:64x8 (hosts x GPUs); "
        "with --scan, kinds",
    )
    add(
        "--strategy",
        nargs="+",
        choices=[*STRATEGIES, AUTO],
        help="how devices share a step, by default as the configuration says; auto ranks all ways by arithmetic, and "
        "compiles the best",
    )
    add(
        "--compile",
        type=number(COUNT),
        metavar="N",
        help="how many of the best ways of --strategy auto are compiled; the second is the best of another remat "
        "(default: 2)",
    )
    add(
        "--scan",
        type=counts,
        metavar="N,N",
        help="numbers of devices; the configuration's batch is that of the first, and grows with them",
    )
    add(
        "--effort",
        choices=["quick", "full"],
        help="how hard the compiler tries; quick takes minutes at the size of Stable Diffusion (default: quick; with "
        "--measure full)",
    )
    add(
        "--measure",
        type=int,
        default=0,
        metavar="N",
        help="also run N steps on random data, on this machine, whose devices must be those of --on; or on cpu:8",
    )
    add(
        "--layout",
        action="store_true",
        help="only print where parameters and the values between layers lie; nothing is compiled",
    )
    add("--json", type=local_path, metavar="FILE", help="also write the plans to FILE, with every collective")
    add("--page", type=local_path, metavar="FILE", help="also write an HTML page with drawings to FILE")
    add_options(parser, "set")
    add_about(parser, "config", "json", "page")
    args = parser.parse_args(argv)
    if args.sample and (beside := [name for name in ("strategy", "scan", "measure", "layout") if getattr(args, name)]):
        parser.error(
            f"--sample beside --{beside[0]}: expected only --on; when sampling, every device holds all weights, and "
            "every host has pictures of its own"
        )
    if args.layout and (beside := [name for name in ("json", "page", "measure") if getattr(args, name)]):
        parser.error(f"--{beside[0]} beside --layout: expected one of them; a layout is only printed")
    if AUTO in (args.strategy or []):
        own = ("strategy", "remat", "accumulate")
        if chosen := [each for each in args.set or [] if each.partition("=")[0].partition(".")[0] in own]:
            parser.error(
                f"--set {chosen[0]} beside --strategy {AUTO}: expected one of them; {AUTO} chooses {', '.join(own)}"
            )
    elif args.compile is not None:
        parser.error(f"--compile needs --strategy {AUTO}: every strategy that is named is compiled")
    args.compile = args.compile or 2
    for name in ("json", "page"):
        if (path := getattr(args, name)) is not None:
            check_folder(path.parent)
            if is_folder(path):
                parser.error(f"--{name} {path}: is a folder, expected a file")
    if args.json is not None and args.page is not None and same_place(args.json, args.page):
        parser.error(f"--json and --page are both {args.json}, expected two files")
    if args.measure < 0:
        parser.error(f"--measure {args.measure}: expected a number of steps")
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
