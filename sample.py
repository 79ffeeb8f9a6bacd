#!/usr/bin/env python
"""Super-resolve photographs: python sample.py photo.jpg --output restored

The program first checks all arguments and files, then loads the networks. Then it reads, restores and writes pictures,
all three at the same time. A picture that fails costs one line on stderr, not the run.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, get_args

import numpy as np
from tqdm import tqdm

from cassr_jax.choices import PRECISIONS
from cassr_jax.commands.jobs import (
    DEEP_FORMATS,
    PROGRAM,
    SUFFIXES,
    Faults,
    Job,
    absent,
    announcement,
    claim,
    described,
    plan,
    read,
    reason_of,
    record,
    unfinished,
    warn,
)
from cassr_jax.commands.log import Log, LogFormat
from cassr_jax.commands.options import SAMPLING, add_options, help_asked, local_path
from cassr_jax.commands.overlap import overlapped
from cassr_jax.commands.prompts import read_prompts
from cassr_jax.commands.running import command
from cassr_jax.commands.shard import Shard
from cassr_jax.commands.streams import with_streams
from cassr_jax.compiled import keep_compiled_functions, version_of
from cassr_jax.errors import InputError
from cassr_jax.files import Json, check_folder, exists, is_file, is_folder, same_place
from cassr_jax.imaging import io
from cassr_jax.imaging.inputs import count_suffixes, find
from cassr_jax.imaging.manifest import PREVIEW, Entry, Manifest
from cassr_jax.imaging.metadata import Strip
from cassr_jax.printing import notice, progress_bar

if TYPE_CHECKING:
    from cassr_jax.cascade import CasSR
    from cassr_jax.config import CascadeConfig
    from cassr_jax.progress import Preview
    from cassr_jax.restoration import Restoration

T = TypeVar("T")
Made = TypeVar("Made")

AHEAD = 2  # pictures that are read early, and pictures that wait to be written
INTERRUPTED = "interrupted; finished pictures are kept, and the same command with --resume goes on from there"

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
frame of an animation is restored, with a warning. The program states how much memory the largest picture needs before
work starts, and refuses pictures that need more than the machine has. Transparency, the colour profile, EXIF (with the
place unless --strip), XMP, IPTC, resolution and texts are kept as far as the format holds them; a line names what is
lost. DIR/manifest.json records the settings, seed and files of every picture. With --log jsonl every line on stdout is
a JSON object, whose `event` is plan, done, failed, skipped or note.
"""


class Source(NamedTuple):
    """A picture as it is read for the networks: the digest of its file's bytes, and the colours that they are given."""

    picture: io.Picture
    sha256: str
    colors: np.ndarray


class Restored(NamedTuple):
    """A picture that went through the cascade: the input and what was made from it, or why nothing was."""

    job: Job
    outcome: "tuple[io.Picture, Restoration] | Exception"


class Progress:
    """A progress bar over all pictures, which also shows how far the current ones are and what was previewed last."""

    def __init__(self, bar: tqdm):
        self.bar = bar
        self.finished = 0
        self.pictures: Sized = ()  # the current ones

    def __call__(self, stage: str, done: int, total: int) -> None:
        share = ((stage == "result") + done / total) / 2
        self.bar.n = round(self.finished + len(self.pictures) * share, 2)
        self.bar.set_description(f"restoring, {stage} {done}/{total}")

    def previewed(self, preview: "Preview") -> None:
        self.bar.set_postfix_str(f"preview of {preview.stage}, step {preview.step}/{preview.steps}")


@command(PROGRAM, interrupted=INTERRUPTED, seconds_to_stop=1.5)
def main(argv: Sequence[str] | None = None) -> int:
    return with_streams(run, parse(argv))


def run(args: argparse.Namespace) -> int:
    log = Log(args.log)
    faults = Faults(log)
    check_folder(args.output)

    # 1. Find the pictures, and report every file that cannot be restored.
    found = find(args.inputs, args.output, args.recursive, args.flat)
    for reason in found.unreadable:
        faults.add(reason.partition(":")[0], reason)
    if found.passed_over:
        warn(f"warning: passed over, in formats that cannot be read: {count_suffixes(found.passed_over)}")
    if found.broken:
        warn(f"warning: passed over, links that lead nowhere: {len(found.broken)}, such as {found.broken[0]}")
    manifest = Manifest(args.output)
    prompts = prompts_of([item.stem for item in found.pictures], args)
    pictures = args.shard.of(found.pictures)
    if not pictures:
        count = f"{len(found.pictures)} found"
        log.note(f"--shard {args.shard} takes none of the pictures ({count}): there are fewer pictures than parts")
    jobs = plan(pictures, prompts, args, manifest, faults)
    if not jobs and faults.exit_code:
        return faults.exit_code

    # 2. Load the networks, only now because JAX alone takes seconds to import.
    keep_compiled_functions()
    import cassr_jax
    from cassr_jax.commands.fingerprint import fingerprint
    from cassr_jax.commands.settings import described as settings_in_words
    from cassr_jax.commands.settings import check_speed, with_options
    from cassr_jax.loading import fetched, read_cascade, trained

    cascade = fetched(args.config)
    own, base = read_cascade(cascade)
    config = with_options(own, vars(args))  # checked even where a shard is empty
    check_speed(config, base, vars(args))
    if not jobs:
        return 0
    if args.preview and args.preview > (most := steps_of(config)):
        warn(f"warning: --preview {args.preview}: no stage takes more than {most} steps, so there is no preview")
    weights = fingerprint(cascade, partial(with_options, chosen={"loras": config.loras}))
    rows = {} if args.split == "tiles" else whole_pictures(args.devices)

    def settings(job: Job) -> Json:
        resolved = with_options(config, {"prompt": job.prompt})
        return settings_of(args) | {"weights": weights} | settings_in_words(resolved, args.precision) | rows

    jobs = [replace(job, entry=replace(job.entry, settings=settings(job))) for job in jobs]
    if args.resume:
        jobs = unfinished(jobs, manifest, log)
    if args.skip_existing:
        jobs = absent(jobs, manifest, log)
    if not jobs:
        return faults.exit_code
    if args.dry_run:
        described(jobs, manifest, config.process_size, log)
    log.note(announcement(jobs, config.process_size))
    if args.dry_run:
        return faults.exit_code
    notice(f"loading the weights of {args.config}", PROGRAM)
    dtype = PRECISIONS.get(args.precision)
    chosen = {"activation": args.activation, "loras": config.loras, "devices": args.devices, "split": args.split}
    cassr = cassr_jax.load(cascade, dtype=dtype, **chosen)
    check(cassr, prompts, args)
    jobs = claim(jobs, manifest, faults, args.overwrite)
    if not jobs:
        return faults.exit_code
    if (made := trained(cascade)) is not None:
        log.note(f"{made[0]}: {made[1]['weights']} weights of step {made[1]['step']}")

    sizes = "each size of picture" if args.split == "spatial" else f"tiles of up to {config.tile} px"
    notice(f"compiling for {sizes}: the first picture takes longer", PROGRAM)

    # 3. Restore the pictures. While the devices work, the next pictures are read and the finished ones written.
    try:
        with progress_bar(total=len(jobs), desc="restoring", unit="picture", leave=False) as bar:
            progress = Progress(bar)
            restored = (each for group in by_prompt(jobs) for each in restore(cassr, group, args, manifest, progress))
            write = partial(write_and_record, manifest=manifest, faults=faults, log=log)
            for _ in overlapped(write, restored, ahead=AHEAD):
                pass  # writing a picture reports its outcome
    finally:
        record(manifest.compact, manifest, faults)
    return faults.exit_code


def steps_of(config: "CascadeConfig") -> int:
    """The steps of the longest stage that samples."""
    from cassr_jax.first_stage import first_stage

    first = [config.activation_sampling] * first_stage(config.activation).diffuses
    return max(sampling.num_steps for sampling in (config.sampling, *first))


def prompts_of(names: Sequence[str], args: argparse.Namespace) -> Mapping[str, str]:
    """The prompts of the pictures, by name; a picture without one has the cascade's own."""
    if args.prompt is not None:
        return {name: args.prompt for name in names}
    return read_prompts(args.prompts, names) if args.prompts else {}


def check(cassr: "CasSR", prompts: Mapping[str, str], args: argparse.Namespace) -> None:
    """Checks the options and every prompt against the cascade, before any work starts.

    Raises:
        InputError: the cascade cannot do what is asked.
    """
    cassr.check(**{name: getattr(args, name) for name in ("scale", "seed", *SAMPLING)})
    for name, prompt in prompts.items():
        try:
            cassr.check(prompt=prompt)
        except InputError as error:
            raise InputError(f"{f'{args.prompts}, {name}' if args.prompts else '--prompt'}: {error}") from error


def by_prompt(jobs: Sequence[Job]) -> Collection[list[Job]]:
    """Groups the pictures by prompt; each group goes through the networks together."""
    groups: dict[str | None, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.prompt, []).append(job)
    return groups.values()


def restore(
    cassr: "CasSR", jobs: Sequence[Job], args: argparse.Namespace, manifest: Manifest, progress: Progress
) -> Iterator[Restored]:
    """Reads and restores pictures with the same prompt, a few at a time; yields them in order."""
    taken: dict[int, tuple[Job, io.Picture | None]] = {}

    def pictures() -> Iterator[np.ndarray | Exception]:
        opened = partial(attempt, partial(source, strip=args.strip))
        sources = overlapped(opened, jobs, ahead=AHEAD, threads=2)
        for number, (job, found) in enumerate(zip(jobs, sources, strict=True)):
            if isinstance(found, Exception):
                taken[number] = job, None
                yield found
            else:
                taken[number] = job.of_content(found.picture, found.sha256), found.picture
                yield found.colors

    def show(preview: "Preview") -> None:
        job, picture = taken[preview.picture]
        assert picture is not None, "what is previewed was read"
        write_preview(job.entry, manifest, io.Picture(preview.image, icc=picture.icc))
        progress.previewed(preview)

    options = {name: getattr(args, name) for name in SAMPLING}
    if args.preview:
        options |= {"preview": show, "preview_every": args.preview}
    progress.pictures = taken
    watched = None if progress.bar.disable else progress
    outcomes = cassr.restore_many(
        pictures(), scale=args.scale, seed=args.seed, prompt=jobs[0].prompt, progress=watched, **options
    )
    for number, outcome in enumerate(outcomes):
        job, picture = taken.pop(number)
        progress.finished += 1
        if isinstance(outcome, Exception):
            yield Restored(job, outcome)
        else:
            assert picture is not None, "what was restored was read"
            yield Restored(job, (picture, outcome))


def source(job: Job, strip: Strip | None) -> Source:
    """Reads a picture that is to be restored now, with the bits of its result, without what is to be stripped."""
    picture, digest = read(job.path)
    picture = io.with_bits(replace(picture, metadata=picture.metadata.without(strip)), job.bits)
    return Source(picture, digest, io.opaque(picture))


def attempt(function: Callable[[T], Made], argument: T) -> Made | Exception:
    """The result of the function, or the exception that it raises."""
    try:
        return function(argument)
    except Exception as error:
        return error


def write_and_record(restored: Restored, manifest: Manifest, faults: Faults, log: Log) -> None:
    """Writes and reports the outcome of one picture; an error becomes a fault of this picture alone."""
    job, outcome = restored
    written = outcome if isinstance(outcome, Exception) else attempt(partial(write, job.entry, manifest), outcome)
    if isinstance(written, Exception):
        faults.add(job.path, reason_of(written))
        trace = str(written) if isinstance(written, InputError) else "".join(traceback.format_exception(written))
        record(lambda: manifest.put(replace(job.entry, status="failed", error=trace)), manifest, faults)
    elif record(lambda: manifest.put(written), manifest, faults):
        text = f"{job.path} -> {manifest.folder / job.entry.outputs['result']} ({written.seconds:.1f} s)"
        log.outputs("done", text, job.path, written.outputs, seconds=written.seconds)


def write(entry: Entry, manifest: Manifest, outcome: "tuple[io.Picture, Restoration]") -> Entry:
    """Writes the files of one picture, the result last."""
    picture, made = outcome
    images = {
        "compare": lambda: io.Picture(io.side_by_side([made.bicubic, made.reference, made.result]), icc=picture.icc),
        "reference": lambda: io.with_rgb(picture, made.reference),
        "result": lambda: io.with_rgb(picture, made.result),
    }
    for kind, image in images.items():
        if kind in entry.outputs:
            lost = io.write(manifest.place(entry.outputs[kind]), image())
            if lost and kind == "result":
                name = Path(entry.outputs[kind]).suffix[1:].upper()
                warn(f"warning: {entry.input}: {name} cannot hold its {', '.join(lost)}, which the result lacks")
    return manifest.done(entry, made.seconds)


def write_preview(entry: Entry, manifest: Manifest, preview: io.Picture) -> None:
    """Writes a preview of a picture in place of the last one; if that fails, the picture is still restored."""
    fault = attempt(lambda file: io.write(manifest.place(file), preview), entry.outputs[PREVIEW])
    if isinstance(fault, Exception):
        warn(f"warning: {entry.input}: a preview is left out: {reason_of(fault)}")


def settings_of(args: argparse.Namespace) -> Json:
    """The settings that decide the result's file and are in no configuration."""
    known = {"version": version_of("cassr-jax"), "config": args.config, "scale": args.scale, "seed": args.seed}
    deep = {"bits": 16} if args.format in DEEP_FORMATS else {}
    return known | deep | ({"strip": args.strip} if args.strip else {})


def whole_pictures(devices: int | None) -> Json:
    """The settings of --split spatial: there are no tiles, and a picture's border is extended to suit the devices."""
    from cassr_jax.sharding.mesh import local_devices

    return {"split": "spatial", "devices": len(local_devices(devices)), "tile": None, "tile_overlap": None}


def own_values_of(config: str) -> dict[str, str]:
    """What a cascade does where an option is left out; this imports JAX, and so is for --help alone."""
    from cassr_jax.commands.settings import own_values

    return own_values(config)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sample.py",
        description="Super-resolve photographs with CasSR.",
        epilog=EPILOG,
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

    add_options(files, "preview")

    asked, decides = help_asked(argv), "By default the configuration decides. "
    own = own_values_of(asked.config or "tiny") if asked.help else {}
    if own:
        decides += f"The defaults below are those of {asked.config or 'tiny'}; --config CONFIG --help shows another's."
    sampling = parser.add_argument_group("sampling", decides)
    add_options(sampling, "activation", "lora", *SAMPLING, shown=own)
    add_options(sampling.add_mutually_exclusive_group(), "prompt", "prompts")
    add_options(sampling, "devices", "split", "precision")
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


if __name__ == "__main__":
    sys.exit(main())
