#!/usr/bin/env python
"""Train one stage of CasSR.

    python train.py --config configs/smoke.py --workdir runs/smoke --steps 12

This takes two minutes and needs nothing but the repository. The same command continues a run that was stopped. The
trained weights are written to WORKDIR/export. Each file of configs/ says in its first lines what it needs, and
docs/training.md goes on to your own photographs. This shows the values of a configuration:

    python train.py --config configs/smoke.py --help
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cassr_jax.commands.about import add_about, called
from cassr_jax.commands.options import add_options, folder, help_asked, local_path, number
from cassr_jax.commands.running import command, ended_after
from cassr_jax.compiled import keep_compiled_functions
from cassr_jax.printing import say
from cassr_jax.ranges import COUNT, FROM_ZERO
from cassr_jax.sharding.strategies import STRATEGIES

PROGRAM = called("train.py")
INTERRUPTED = "interrupted before it had saved; the same command goes on from the last checkpoint"


@command(PROGRAM, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)

    if arguments.compile_for is None:  # what is compiled for other chips cannot be loaded here
        keep_compiled_functions()
    # Imported only now, because JAX alone takes seconds.
    from cassr_jax.config_files import read_config
    from cassr_jax.sharding.mesh import ending_alone, join_processes
    from cassr_jax.training.compile_ahead import compile_for
    from cassr_jax.training.loop import train

    changes = arguments.set + ([f"num_steps={arguments.steps}"] if arguments.steps is not None else [])
    strategy = None if arguments.strategy is None else STRATEGIES[arguments.strategy]
    config = read_config(arguments.config, changes, strategy)
    if arguments.compile_for is not None:
        from cassr_jax.sharding.report import table

        say(table([compile_for(config, arguments.compile_for, arguments.strategy or "")]))
        return 0

    # Only now that the configuration is known to be sound: a process that ends alone leaves the others waiting.
    if arguments.distributed is not None:
        late = (
            f"--distributed: not all processes came within {arguments.join_timeout} s, expected one with each number; "
            "start them all, or give them more time with --join-timeout"
        )
        with ended_after(arguments.join_timeout, late, PROGRAM):
            join_processes(arguments.distributed, arguments.join_timeout, arguments.local_devices)
    with ending_alone(PROGRAM):
        exported = train(
            config,
            arguments.workdir,
            export_to=arguments.export,
            profile=arguments.profile,
            from_step=arguments.from_step,
            allow_changes=arguments.allow_change,
        )
    say(f"trained weights are in {exported}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    add = parser.add_argument
    add(
        "-h",
        "--help",
        action="help",
        help="show this help and every configuration field, with CONFIG's values if --config is given",
    )
    add(
        "--config",
        required=True,
        type=local_path,
        help="a Python file that defines `config`, a TrainConfig, or the name of one in configs/, such as smoke",
    )
    add(
        "--workdir",
        type=folder,
        help="folder for checkpoints, logs and the export, not within the data; it may be in a bucket, gs://BUCKET/FOLDER",
    )
    add("--steps", type=int, help="train up to this step, in place of the configuration's num_steps")
    add_options(parser, "set")
    add(
        "--allow-change",
        nargs="+",
        default=[],
        metavar="FIELD",
        help="continue a run although these fields, which decide its examples, have changed",
    )
    add(
        "--from-step",
        type=number(FROM_ZERO),
        metavar="N",
        help="continue from this checkpoint instead of the newest; later ones are moved to WORKDIR/set_aside",
    )
    add("--export", type=folder, metavar="DIR", help="write the newest checkpoint's weights to DIR; do not train")
    add("--profile", metavar="A:B", type=steps, help="trace steps A to B - 1 into WORKDIR/profile")

    devices = parser.add_argument_group("devices").add_argument
    devices(
        "--strategy",
        choices=STRATEGIES,
        help="how devices share a training step, in place of the configuration's; --set may change its fields",
    )
    devices(
        "--distributed",
        nargs="*",
        metavar="WHERE",
        help="run as one of several processes. Without a value, the cluster is asked for them (TPU pod, Slurm, MPI). "
        "Otherwise give HOST:PORT N I: the address of process 0, the number of processes, and this one's number",
    )
    devices(
        "--local-devices",
        type=device_numbers,
        metavar="WHICH",
        help="which of its host's GPUs this process uses: all that it can see (all), or these (0,1,2,3). By default, a "
        "process of Slurm or MPI uses one, that of its own number on the host, and any other process uses all",
    )
    devices(
        "--join-timeout",
        type=number(COUNT),
        default=300,
        metavar="S",
        help="seconds that a process waits for the others at the start (default: %(default)s)",
    )
    devices(
        "--compile-for",
        metavar="DEVICES",
        help="compile a step for devices that need not be here, a TPU slice such as v5e:2x4 or GPUs such as h200:8 or "
        "h100:4x8 (hosts x GPUs), and print what each holds and does (python -m cassr_jax.sharding.plan can do more)",
    )
    add_about(parser, "config", "workdir", "export")
    asked = help_asked(argv)
    if asked.help:
        parser.print_help()
        say(f"\n{fields(asked.config)}")
        parser.exit()
    arguments = parser.parse_args(argv)
    if arguments.local_devices is not None and arguments.distributed is None:
        parser.error("--local-devices is for one of several processes, expected --distributed beside it")
    if not (arguments.workdir or arguments.compile_for):
        parser.error("the following arguments are required: --workdir")
    return arguments


def steps(text: str) -> tuple[int, int]:
    first, found, last = text.partition(":")
    if not (found and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"{text!r}, expected A:B, two steps with A before B")
    return int(first), int(last)


def device_numbers(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if text != "all" and not (all(map(str.isdecimal, numbers)) and len(set(map(int, numbers))) == len(numbers)):
        raise argparse.ArgumentTypeError(f"{text!r}, expected all, or the numbers of GPUs such as 0,1,2,3")
    return () if text == "all" else tuple(map(int, numbers))


def fields(source: str | None) -> str:
    """Every field of a configuration with its value, or with its default if there is no `source`."""
    from cassr_jax.config import TrainConfig
    from cassr_jax.config_files import describe_fields, read_config

    config = TrainConfig if source is None else read_config(Path(source))
    title = "fields of a configuration and their defaults" if source is None else f"fields of {source} and their values"
    return f"{title}, for --set:\n{describe_fields(config)}"


if __name__ == "__main__":
    sys.exit(main())
