"""Train one stage of CasSR.

    python train.py --config configs/tiny_vae.py --workdir runs/vae

The same command again takes the run up where it stopped. The result lies in WORKDIR/export.
"""

import argparse
import sys
from pathlib import Path

from cassr_jax.errors import InputError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="a Python file that defines `config`, a TrainConfig")
    parser.add_argument(
        "--workdir", required=True, type=Path, help="where checkpoints, logs and the export are written"
    )
    parser.add_argument("--steps", type=int, help="train to this step instead of the configuration's last")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="change fields of the configuration, e.g. --set batch_size=2 optimizer.learning_rate=1e-4",
    )
    arguments = parser.parse_args(argv)
    try:
        from cassr_jax.config_files import override, read_config
        from cassr_jax.training.loop import train

        changes = arguments.set + ([f"num_steps={arguments.steps}"] if arguments.steps is not None else [])
        folder = train(override(read_config(arguments.config), changes), arguments.workdir)
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    print(f"trained weights are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
