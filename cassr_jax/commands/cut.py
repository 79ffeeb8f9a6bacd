"""Cut pictures once into overlapping pieces, for `data.path` or `cassr_jax.commands.build`.

    python -m cassr_jax.commands.cut --images DIV8K --output data/div8k_pieces

Training decodes a whole picture for each crop that it takes, which for 8K is a hundred times the crop. A piece of
photo.jpg is photo.jpg_y00768_x00000.png, named by its corner. The same command goes on where it was stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from cassr_jax.commands.options import local_path, number
from cassr_jax.commands.running import command
from cassr_jax.data.pieces import Cutting, cut, is_cut
from cassr_jax.data.sources import picture_files, read_rgb
from cassr_jax.data.workforce import usable_cores
from cassr_jax.errors import InputError
from cassr_jax.files import check_outside, files_below, is_file, is_folder, read_json, write_json
from cassr_jax.locks import claimed
from cassr_jax.printing import complain, progress_bar, say
from cassr_jax.ranges import COUNT, FROM_ZERO

SETTINGS = "cut.json"  # how the pictures of a folder were cut


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.cut",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, default = parser.add_argument, Cutting()
    add("--images", required=True, type=local_path, help="the folder of pictures")
    add("--output", required=True, type=local_path, help="the folder for their pieces, not within the other one")
    add("--size", type=number(COUNT), default=default.size, help="side of a piece in px (default: %(default)s)")
    add("--step", type=number(COUNT), default=default.step, help="px from one piece to the next (default: %(default)s)")
    add(
        "--remainder",
        type=number(FROM_ZERO),
        default=default.remainder,
        help="px beyond the last step that may be left out; more of them get a piece that ends at the border "
        "(default: %(default)s)",
    )
    add("--workers", type=number(COUNT), help="pictures that are cut at a time (default: one for each core)")
    return parser.parse_args(argv)


@command("cut")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    images, output = arguments.images, arguments.output
    cutting = Cutting(arguments.size, arguments.step, arguments.remainder)
    check_outside(output, images, "--images")
    keys = picture_files(images)
    with claimed(output, "cut"):
        _check_settings(output / SETTINGS, cutting, images)
        present = frozenset(path.relative_to(output).as_posix() for path in files_below(output))
        left = [key for key in keys if not is_cut(key, output, present)]
        made, left_out = _cut_all(left, images, output, cutting, arguments.workers or len(usable_cores()))
    if left_out == len(keys):
        raise InputError(f"{images}: none of its {len(keys)} pictures can be used, expected at least one")
    done = f"{len(keys) - len(left)} were cut already, {left_out} left out"
    say(f"{output}: {made} pieces of {len(left) - left_out} pictures; {done}")
    return 0


def _cut_all(keys: Sequence[str], images: Path, output: Path, cutting: Cutting, workers: int) -> tuple[int, int]:
    """(the number of pieces made, the number of pictures left out)."""

    def one(key: str) -> int:
        try:
            rgb = read_rgb(images / key)
        except InputError as error:
            complain(f"left out: {error}")
            return 0
        return cut(rgb, key, output, cutting)

    with ThreadPoolExecutor(workers) as threads:
        try:
            made = list(progress_bar(threads.map(one, keys), total=len(keys), unit="picture"))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return sum(made), made.count(0)


def _check_settings(file: Path, cutting: Cutting, images: Path) -> None:
    """Write how the pictures are cut, or refuse a folder whose pictures were cut otherwise, or come from elsewhere."""
    now = {"images": str(images.absolute()), **asdict(cutting)}
    if not is_file(file):
        if is_folder(file.parent) and (found := next(files_below(file.parent), None)) is not None:
            raise InputError(f"{file.parent}: holds {found.name} and no {SETTINGS}, expected an empty folder")
        write_json(file, now)
        return
    before = read_json(file)
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(
                f"{file}: cut with {name} {before.get(name)!r}, this command has {value!r}; expected the same, or "
                "another --output"
            )


if __name__ == "__main__":
    sys.exit(main())
