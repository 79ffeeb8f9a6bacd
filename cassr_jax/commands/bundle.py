"""Gather a cascade into one folder that `cassr_jax.load` and `sample.py --config` accept.

    python -m cassr_jax.commands.bundle --config configs/tiny.py --output cassr_jax/assets/tiny --dtype float16

Every network of the configuration is read, cast and written below the output folder, beside a `cassr.json` that names
them by relative paths. So the folder can be moved or uploaded to a hub.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

from cassr_jax.choices import DType
from cassr_jax.commands.options import local_path
from cassr_jax.commands.running import command
from cassr_jax.config import CascadeConfig
from cassr_jax.config_files import resolve, to_json
from cassr_jax.files import write_json
from cassr_jax.kinds import KINDS
from cassr_jax.loading import CASCADE_FILE, read_cascade
from cassr_jax.locks import claimed
from cassr_jax.models.parameters import select
from cassr_jax.networks import Networks, write_network
from cassr_jax.printing import progress_bar
from cassr_jax.schedules import agreed, write_schedule


def bundle(config: CascadeConfig, base: Path, output: Path, dtype: str) -> None:
    """Write the networks of `config`, whose relative paths start at `base`, and its `cassr.json` below `output`."""
    components = dict(config.components)
    for kind, source in progress_bar(config.components.items(), unit="network"):
        if kind not in KINDS or not KINDS[kind].bundled:  # a network of others: it stays where it is
            components[kind] = resolve(source, base)
            continue
        networks = Networks().with_read(kind, resolve(source, base), "float32")
        write_network(output / kind, kind, networks.configs[kind], select(networks.params, kind), dtype)
        components[kind] = kind
    if "unet" in config.components:
        write_schedule(output, agreed(config.schedule, resolve(config.components["unet"], base), str(base)))
    write_json(output / CASCADE_FILE, to_json(replace(config, components=components)))


@command("bundle")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", required=True, help="the cascade: a Python file that defines `cascade`, or a folder"
    )
    parser.add_argument("--output", required=True, type=local_path, help="the folder to write")
    parser.add_argument(
        "--dtype",
        default="float16",
        choices=get_args(DType),
        help="precision of the weights (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    config, base = read_cascade(arguments.config)
    with claimed(arguments.output, "bundle"):
        bundle(config, base, arguments.output, arguments.dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
