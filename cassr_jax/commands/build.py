"""Build a set of training pictures: a folder of ArrayRecord files that `data.path` and `data.mixture` accept.

    python -m cassr_jax.commands.build --dataset div2k --images DIV2K_train_HR --output data

writes data/div2k/1.0.0. Every picture is stored upright, in 8-bit RGB. A picture that cannot be read, or has a side
shorter than --min-side, is left out, named, and listed in the set's metadata.json. A set that exists stays as it is.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from cassr_jax.commands.options import local_path
from cassr_jax.commands.running import command
from cassr_jax.errors import InputError
from cassr_jax.files import check_outside, exists
from cassr_jax.printing import say


@command("build")
def main(argv: list[str] | None = None) -> int:
    from cassr_jax.data.builders import BUILDERS, MIN_SIDE

    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dataset", required=True, choices=BUILDERS, help="the set to build; `folder` is for any other pictures"
    )
    parser.add_argument("--images", required=True, type=local_path, help="the folder of its pictures")
    parser.add_argument(
        "--output", required=True, type=local_path, help="the folder in which DATASET/VERSION is written"
    )
    parser.add_argument(
        "--min-side",
        type=int,
        default=MIN_SIDE,
        help="length that no side of a picture may be below, in px (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        builder = BUILDERS[arguments.dataset](
            images=arguments.images, min_side=arguments.min_side, data_dir=arguments.output
        )
        folder = Path(builder.data_dir)
        check_outside(folder, builder.images, "--images")
        if exists(folder):
            say(f"{folder}: exists already")
            return 0
        with tempfile.TemporaryDirectory() as unused:  # tfds makes a folder for downloads, but nothing is downloaded
            builder.download_and_prepare(download_dir=unused)
    except OSError as error:
        raise InputError(f"{arguments.output}: cannot be written ({error.strerror or error})") from error
    say(f"{folder}: {builder.info.splits['train'].num_examples} pictures, {len(builder.left_out)} left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
