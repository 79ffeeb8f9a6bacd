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
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from cassr_jax.choices import PRECISIONS
from cassr_jax.commands.jobs import (
    ALWAYS_DEEP,
    PROGRAM,
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
from cassr_jax.commands.log import Log
from cassr_jax.commands.options import SAMPLING
from cassr_jax.commands.overlap import overlapped
from cassr_jax.commands.prompts import read_prompts
from cassr_jax.commands.running import command
from cassr_jax.commands.sample_arguments import parse
from cassr_jax.commands.streams import with_streams
from cassr_jax.compiled import keep_compiled_functions, version_of
from cassr_jax.errors import InputError
from cassr_jax.files import Json, check_folder, exists
from cassr_jax.imaging import io
from cassr_jax.imaging.inputs import count_suffixes, find
from cassr_jax.imaging.invented import invented
from cassr_jax.imaging.manifest import PREVIEW, Entry, Manifest
from cassr_jax.imaging.metadata import Strip
from cassr_jax.imaging.protection import protected, read_mask
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
    if args.protect is not None and not exists(args.protect):
        raise InputError(f"--protect {args.protect}: no such file or folder, expected a mask or a folder of masks")

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
    from cassr_jax.commands.settings import check_speed, with_options
    from cassr_jax.commands.settings import described as settings_in_words
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
        masked = {} if job.mask is None else {"protect": job.mask[1], "protect_by": args.protect_by}
        return settings_of(args) | masked | {"weights": weights} | settings_in_words(resolved, args.precision) | rows

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
            write = partial(write_and_record, args=args, manifest=manifest, faults=faults, log=log)
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
        write_preview(job.entry, manifest, io.in_colors_of(picture, preview.image))
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
    picture, digest = read(job.path, job.frame)
    picture = io.with_bits(replace(picture, metadata=picture.metadata.without(strip)), job.bits)
    return Source(picture, digest, io.opaque(picture))


def attempt(function: Callable[[T], Made], argument: T) -> Made | Exception:
    """The result of the function, or the exception that it raises."""
    try:
        return function(argument)
    except Exception as error:
        return error


def write_and_record(
    restored: Restored, args: argparse.Namespace, manifest: Manifest, faults: Faults, log: Log
) -> None:
    """Writes and reports the outcome of one picture; an error becomes a fault of this picture alone."""
    job, outcome = restored
    if not isinstance(outcome, Exception):
        outcome = attempt(partial(with_protected, job.mask, args.protect_by), outcome)
    written = outcome if isinstance(outcome, Exception) else attempt(partial(write, job.entry, manifest), outcome)
    if isinstance(written, Exception):
        faults.add(job.path, reason_of(written))
        trace = str(written) if isinstance(written, InputError) else "".join(traceback.format_exception(written))
        record(lambda: manifest.put(replace(job.entry, status="failed", error=trace)), manifest, faults)
    elif record(lambda: manifest.put(written), manifest, faults):
        text = f"{job.path} -> {manifest.folder / job.entry.outputs['result']} ({written.seconds:.1f} s)"
        log.outputs("done", text, job.path, written.outputs, seconds=written.seconds)


def with_protected(
    mask: tuple[Path, str] | None, by: str, outcome: "tuple[io.Picture, Restoration]"
) -> "tuple[io.Picture, Restoration]":
    """The outcome with what its mask protects as it was enlarged, or as the first stage made it."""
    if mask is None:
        return outcome
    picture, made = outcome
    kept = made.reference if by == "reference" else made.bicubic
    return picture, replace(made, result=protected(made.result, kept, read_mask(mask[0], picture.rgb)))


def write(entry: Entry, manifest: Manifest, outcome: "tuple[io.Picture, Restoration]") -> Entry:
    """Writes the files of one picture, the result last."""
    picture, made = outcome
    images = {
        "compare": lambda: io.in_colors_of(picture, io.side_by_side([made.bicubic, made.reference, made.result])),
        "invented": lambda: io.Picture(invented(made.result, io.opaque(picture))),
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
    deep = {"bits": 16} if args.format in ALWAYS_DEEP else {}
    return known | deep | ({"strip": args.strip} if args.strip else {})


def whole_pictures(devices: int | None) -> Json:
    """The settings of --split spatial: there are no tiles, and a picture's border is extended to suit the devices."""
    from cassr_jax.sharding.mesh import local_devices

    return {"split": "spatial", "devices": len(local_devices(devices)), "tile": None, "tile_overlap": None}


if __name__ == "__main__":
    sys.exit(main())
