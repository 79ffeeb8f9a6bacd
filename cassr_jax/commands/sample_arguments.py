"""The arguments of sample.py, and what `--help` says of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cassr_jax.commands.about import add_about, command_line
from cassr_jax.commands.jobs import PROGRAM, SUFFIXES
from cassr_jax.commands.log import LogFormat
from cassr_jax.commands.options import SAMPLING, add_options, help_asked, local_path
from cassr_jax.commands.shard import Shard
from cassr_jax.files import exists, is_file, is_folder, same_place
from cassr_jax.imaging.metadata import Strip

EPILOG = """
examples:
  python sample.py photo.jpg                          output/photo.png, four times as wide and high
  python sample.py holiday/ --output out --compare    every picture of a folder and its sub-folders
  python sample.py holiday/ --output out --resume     the rest of them, after a run that was stopped
  python sample.py holiday/ --output out --dry-run    what would be done, with sizes, memory and time
  python sample.py photo.jpg --seed 7                 another variation
  python sample.py - --output - < in.jpg > out.png    from stdin to stdout

exit code: 0 if all pictures are restored, 2 if an argument is wrong or at least one picture failed (one line each on
stderr), 130 after Ctrl-C. If an INPUT does not exist, all such paths are named and nothing is restored. Only the first
frame of an animation is restored, with a warning, unless --all-frames is given. The program states how much memory the
largest picture needs before work starts, and refuses pictures that need more than the machine has. Transparency, the
colour profile, EXIF (with the place unless --strip), XMP, IPTC, resolution and texts are kept as far as the format
holds them; a line names what is lost. DIR/manifest.json records the settings, seed and files of every picture. With
--log jsonl every line on stdout is a JSON object, whose `event` is plan, done, failed, skipped or note.
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The checked arguments; argparse ends the program where they are wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Super-resolve photographs with CasSR.",
        epilog=EPILOG.replace("python sample.py", command_line("sample.py")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="picture files, folders, which are searched with their sub-folders, or - for a picture on stdin",
    )
    parser.add_argument(
        "--output",
        type=local_path,
        default=Path("output"),
        metavar="DIR",
        help="folder for the results (default: %(default)s); - writes the only result to stdout",
    )
    add_options(parser, "scale", "seed", "config")
    parser.add_argument(
        "--resume", action="store_true", help="skip pictures that are already in the output folder with these settings"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only tell what would be done, with sizes and memory, and the time if the output folder tells it",
    )
    parser.add_argument(
        "--log",
        choices=get_args(LogFormat),
        default="text",
        help="form of the lines on stdout; jsonl gives each as a JSON object, for other programs (default: text)",
    )
    parser.add_argument(
        "--no-recursive", dest="recursive", action="store_false", help="do not search the sub-folders of folders"
    )

    parser.add_argument(
        "--shard",
        type=Shard.parse,
        default=Shard(),
        metavar="I/N",
        help="restore part I of N of the pictures; N machines that share the folders each take one part; with "
        "`cluster`, I and N are what SLURM, Open MPI, torchrun or a TPU slice says",
    )

    files = parser.add_argument_group("what is written")
    files.add_argument(
        "--format",
        choices=[*SUFFIXES, "keep"],
        default="png",
        help="format of the results: png and tiff have 16 bits per sample where the picture has, png16 and tiff16 "
        "always; keep writes JPEG for JPEG, WebP for WebP, TIFF for TIFF, and PNG for all others (default: png)",
    )
    files.add_argument(
        "--all-frames",
        action="store_true",
        help="restore every frame of an animation and every page of a TIFF, as NAME_1, NAME_2, ..., not only the first",
    )
    files.add_argument(
        "--flat",
        action="store_true",
        help="write all results into the output folder itself, whatever their sub-folders",
    )
    existing = files.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", action="store_true", help="replace files of the results' names, whoever wrote them"
    )
    existing.add_argument(
        "--skip-existing", action="store_true", help="leave out pictures for whose results there is a file"
    )
    files.add_argument(
        "--strip",
        nargs="?",
        const="all",
        choices=get_args(Strip),
        help="leave metadata out of the results: gps, the place where a picture was taken, or all (which --strip alone "
        "means); the colour profile stays. By default EXIF, XMP, IPTC, resolution and texts are carried over",
    )
    files.add_argument(
        "--save-reference", action="store_true", help="also write the first stage's picture, as NAME_reference"
    )
    files.add_argument(
        "--compare",
        action="store_true",
        help="also write bicubic enlargement, reference and result in a row, as NAME_compare.png",
    )

    files.add_argument(
        "--show-invented",
        action="store_true",
        help="also write NAME_invented.png, a map of what not to trust: yellow where the result has detail that the "
        "picture cannot hold, red where it contradicts the picture",
    )
    files.add_argument(
        "--protect",
        type=local_path,
        metavar="MASK",
        help="what is white in this picture is not drawn anew: a mask for all pictures, of their shape and any size, "
        "or a folder with one for each, of the same name",
    )
    files.add_argument(
        "--protect-by",
        choices=["bicubic", "reference"],
        default="bicubic",
        help="what stands there instead: the enlarged picture, or the first stage's (default: bicubic)",
    )
    add_options(files, "preview")

    asked, decides = help_asked(argv), "By default the configuration decides. "
    own = _own_values(asked.config or "tiny") if asked.help else {}
    if own:
        decides += f"The defaults below are those of {asked.config or 'tiny'}; --config CONFIG --help shows another's."
    sampling = parser.add_argument_group("sampling", decides)
    add_options(sampling, "activation", "lora", *SAMPLING, shown=own)
    add_options(sampling.add_mutually_exclusive_group(), "prompt", "prompts")
    add_options(sampling, "devices", "split", "precision")
    add_about(parser, "inputs", "output", "config", "protect", "prompts")
    args = parser.parse_args(argv)
    if args.split == "spatial" and args.tile is not None:
        parser.error(f"--tile {args.tile} beside --split spatial: expected one of them; that one takes no tiles")
    if exists(args.output) and not is_folder(args.output):
        parser.error(f"--output {args.output}: is a file, expected a folder")
    if any(is_folder(given) and same_place(Path(given), args.output) for given in args.inputs):
        parser.error(f"--output {args.output}: is an input folder too, expected another folder")
    if args.config.endswith(".py") and not is_file(Path(args.config)):
        parser.error(f"--config {args.config}: no such file, expected a Python file that defines `cascade`")
    return args


def _own_values(config: str) -> dict[str, str]:
    """What a cascade does where an option is left out; this imports JAX, and so is for --help alone."""
    from cassr_jax.commands.settings import own_values

    return own_values(config)
