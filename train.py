#!/usr/bin/env python
"""Train one stage of CasSR.

    python train.py --config configs/tiny_vae.py --workdir runs/vae

The same command again takes the run up where it stopped. The result lies in WORKDIR/export.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from cassr_jax.commands.options import add_options, local_path, number
from cassr_jax.commands.running import command, ended_after, say
from cassr_jax.ranges import COUNT, FROM_ZERO

PROGRAM = "train.py"
INTERRUPTED = "interrupted before it had saved; the same command goes on from the checkpoint before"


@command(PROGRAM, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)

    # Only now: JAX alone takes seconds to import.
    from cassr_jax.config_files import read_config
    from cassr_jax.sharding.mesh import join_processes
    from cassr_jax.sharding.strategies import STRATEGIES
    from cassr_jax.training.compile_ahead import compile_for
    from cassr_jax.training.loop import train

    changes = arguments.set + ([f"num_steps={arguments.steps}"] if arguments.steps is not None else [])
    config = read_config(arguments.config, changes)
    if arguments.strategy is not None:
        config = replace(config, strategy=STRATEGIES[arguments.strategy])
    if arguments.compile_for is not None:
        say(compile_for(config, arguments.compile_for))
        return 0

    # After the configuration was read: a process that ends by itself leaves the others waiting.
    if arguments.distributed is not None:
        late = (
            f"--distributed: not all processes came within {arguments.join_timeout} s, expected one with each number; "
            "start them all, or give them longer by --join-timeout"
        )
        with ended_after(arguments.join_timeout, late, PROGRAM):
            join_processes(arguments.distributed, arguments.join_timeout)
    folder = train(
        config,
        arguments.workdir,
        export_to=arguments.export,
        profile=arguments.profile,
        from_step=arguments.from_step,
        allow_changes=arguments.allow_change,
    )
    say(f"trained weights are in {folder}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    add = parser.add_argument
    add("-h", "--help", nargs=0, action=Help, help="this, and every field of a configuration")
    add("--config", required=True, type=local_path, help="a Python file that defines `config`, a TrainConfig")
    add("--workdir", type=local_path, help="where checkpoints, logs and the export are written")
    add("--steps", type=int, help="train to this step instead of the configuration's last")
    add_options(parser, "set")
    add(
        "--allow-change",
        nargs="+",
        default=[],
        metavar="FIELD",
        help="take up a run although this field, which decides the examples that it meets, is not as it was",
    )
    add(
        "--from-step",
        type=number(FROM_ZERO),
        metavar="N",
        help="take up the run at this checkpoint instead of the newest; later ones are moved to WORKDIR/set_aside",
    )
    add("--export", type=local_path, metavar="DIR", help="write the newest checkpoint's weights, do not train")
    add("--profile", metavar="A:B", type=steps, help="trace steps A to B - 1 into WORKDIR/profile")

    devices = parser.add_argument_group("devices").add_argument
    devices("--strategy", choices=("dp", "fsdp", "fsdp_tp"), help="how devices share the step")
    devices(
        "--distributed",
        nargs="*",
        metavar="WHERE",
        help="run as one of several processes. Alone: as the cluster says (TPU pod, Slurm, MPI). With three words, "
        "HOST:PORT N I: the address of process 0, how many there are, and which of them this is",
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
        metavar="SLICE",
        help="compile for a TPU slice, as v5e:2x4, without one; print what each chip holds and does",
    )
    arguments = parser.parse_args(argv)
    if not (arguments.workdir or arguments.compile_for):
        parser.error("the following arguments are required: --workdir")
    return arguments


def steps(text: str) -> tuple[int, int]:
    first, found, last = text.partition(":")
    if not (found and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, two steps with A before B")
    return int(first), int(last)


class Help(argparse.Action):
    """--help, followed by the fields of a configuration; they are read only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from cassr_jax.config import TrainConfig
        from cassr_jax.config_files import describe_fields

        parser.print_help()
        print("\nfields of a configuration, for --set:", describe_fields(TrainConfig), sep="\n")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
