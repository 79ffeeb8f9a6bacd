"""Train one stage of CasSR.

    python train.py --config configs/tiny_vae.py --workdir runs/vae

The same command again takes the run up where it stopped. The result lies in WORKDIR/export.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from cassr_jax.errors import InputError, Stopped


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    parser.add_argument("-h", "--help", nargs=0, action=Help, help="this, and every field of a configuration")
    parser.add_argument("--config", required=True, type=Path, help="a Python file that defines `config`, a TrainConfig")
    parser.add_argument("--workdir", type=Path, help="where checkpoints, logs and the export are written")
    parser.add_argument("--steps", type=int, help="train to this step instead of the configuration's last")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="change fields of the configuration, e.g. --set batch_size=2 optimizer.learning_rate=1e-4",
    )
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write the newest checkpoint's weights, do not train"
    )
    parser.add_argument(
        "--distributed",
        nargs="*",
        metavar="WHERE",
        help="run as one of several processes. Alone: as the cluster says (TPU pod, Slurm, MPI). With three words, "
        "HOST:PORT N I: the address of process 0, how many there are, and which of them this is",
    )
    parser.add_argument("--strategy", choices=("dp", "fsdp", "fsdp_tp"), help="how devices share the step")
    parser.add_argument(
        "--compile-for",
        metavar="SLICE",
        help="compile for a TPU slice, as v5e:2x4, without one; print what each chip holds and does",
    )
    parser.add_argument("--profile", metavar="A:B", type=steps, help="trace steps A to B - 1 into WORKDIR/profile")
    arguments = parser.parse_args(argv)
    if not (arguments.workdir or arguments.compile_for):
        parser.error("the following arguments are required: --workdir")
    try:
        import jax

        from cassr_jax.config_files import override, read_config
        from cassr_jax.sharding.mesh import join_processes
        from cassr_jax.sharding.strategies import STRATEGIES
        from cassr_jax.training.compile_ahead import compile_for
        from cassr_jax.training.loop import train

        if arguments.distributed is not None:
            join_processes(arguments.distributed)

        changes = arguments.set + ([f"num_steps={arguments.steps}"] if arguments.steps is not None else [])
        config = override(read_config(arguments.config), changes)
        if arguments.strategy is not None:
            config = replace(config, strategy=STRATEGIES[arguments.strategy])
        if arguments.compile_for is not None:
            jax.config.update("jax_platforms", "cpu")  # libtpu is there to compile, not to be looked for a TPU
            print(compile_for(config, arguments.compile_for))
            return 0
        folder = train(config, arguments.workdir, export_to=arguments.export, profile=arguments.profile)
    except Stopped as stopped:
        print(stopped)
        return 0
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    print(f"trained weights are in {folder}")
    return 0


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
