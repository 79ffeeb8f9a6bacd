"""The pictures that `sample.py` is to restore, and the reports of what is wrong with the others."""

import argparse
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cassr_jax.commands.about import called
from cassr_jax.commands.log import Log
from cassr_jax.errors import InputError, ran_out
from cassr_jax.imaging import io, memory, resizing
from cassr_jax.imaging.inputs import Input
from cassr_jax.imaging.manifest import PREVIEW, Entry, Manifest
from cassr_jax.imaging.protection import mask_for, read_mask
from cassr_jax.printing import complain, progress_bar

PROGRAM = called("sample.py")
SUFFIXES = {"png": ".png", "png16": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif", "tiff16": ".tif"}
"""By the names of --format."""
ALWAYS_DEEP = ("png16", "tiff16")
"""The names of those with 16 bits per sample, whatever the picture has."""
KEPT = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}

warn = partial(complain, name=PROGRAM)


@dataclass(frozen=True)
class Job:
    """A picture to restore.

    Attributes:
        size: the size of its result, (height, width).
        prompt: None is the cascade's own.
        bits: those of a sample of its result.
        mask: the file of what is protected in it, and the digest of its bytes.
        frame: which frame or page of its file it is.
    """

    path: Path
    entry: Entry
    size: tuple[int, int]
    prompt: str | None = None
    bits: int = 8
    mask: tuple[Path, str] | None = None
    frame: int = 0

    @property
    def of_several(self) -> bool:
        """Whether it is one of several frames of its file that are all restored."""
        return self.entry.input != str(self.path.resolve())

    def of_content(self, picture: io.Picture, digest: str) -> "Job":
        """The job for a picture as it was read again; its file may have been replaced since it was checked."""
        if digest == self.entry.sha256:
            return self
        warn(f"warning: {self.path}: has changed since it was checked; its new content is restored")
        warn_of(self.path, picture, self)
        return replace(self, entry=replace(self.entry, sha256=digest))


class Faults:
    """Reports what is wrong with single pictures, one line each, and decides the exit code."""

    def __init__(self, log: Log | None = None) -> None:
        self.count = 0
        self._log = log or Log()

    def add(self, where: object, error: object) -> None:
        self.count += 1
        warn(str(error) if str(where) in str(error) else f"{where}: {error}")
        self._log.failed(where, str(error))

    @property
    def exit_code(self) -> int:
        return 2 if self.count else 0


def plan(
    inputs: Sequence[Input], prompts: Mapping[str, str], args: argparse.Namespace, manifest: Manifest, faults: Faults
) -> list[Job]:
    """The pictures that can be restored, found by reading each completely; the others become faults."""
    jobs: list[Job] = []
    taken: dict[str, Path] = {}  # by each file's name, ignoring case as some file systems do
    for item in progress_bar(inputs, desc="reading", leave=False, delay=1):
        frame = count = 0
        while frame <= count:
            try:
                picture, digest = read(item.path, frame)
                count = picture.frames - 1 if args.all_frames else 0
                job = _job(item, frame, picture, digest, args, manifest, taken)
            except (InputError, MemoryError) as error:
                faults.add(item.path, reason_of(error))
            else:
                warn_of(item.path, picture, job)
                taken |= dict.fromkeys(map(str.casefold, job.entry.outputs.values()), item.path)
                jobs.append(replace(job, prompt=prompts.get(item.stem)))
            frame += 1
    return jobs


def _job(
    item: Input,
    frame: int,
    picture: io.Picture,
    digest: str,
    args: argparse.Namespace,
    manifest: Manifest,
    taken: Mapping[str, Path],
) -> Job:
    """What is to be done with a frame of a picture, without its prompt.

    Raises:
        InputError: its result would be too large, or cannot be written, or another's files have its name; or its mask
            does not fit.
    """
    several = args.all_frames and picture.frames > 1
    name = f"{item.stem}_{frame + 1:0{len(str(picture.frames))}}" if several else item.stem
    outputs = outputs_of(name, picture, args)
    height, width = resizing.output_size(picture.rgb.shape[0], picture.rgb.shape[1], args.scale)
    memory.check(height, width)
    io.check_writable(args.output / outputs["result"], height, width, picture.alpha)
    for file in outputs.values():
        place = manifest.place(file)
        if (other := taken.get(file.casefold())) is not None:
            raise InputError(f"{place} would also be written for {other}, expected another name or another --output")
    source = str(item.path.resolve()) + (f", frame {frame + 1}" if several else "")
    entry = Entry(source, digest, outputs, {})
    bits = bits_of(outputs["result"], picture, args.format)
    return Job(item.path, entry, (height, width), bits=bits, mask=mask_of(item, picture, args.protect), frame=frame)


def read(path: Path, frame: int = 0) -> tuple[io.Picture, str]:
    """A frame of the picture in a file, and the digest of the bytes that it was decoded from and of its number."""
    data = io.contents(path)
    counted = data if frame == 0 else data + f"frame {frame + 1}".encode()
    return io.decoded(data, path, frame), hashlib.sha256(counted).hexdigest()


def warn_of(path: Path, picture: io.Picture, job: Job) -> None:
    """Says what of a file is not restored."""
    if picture.frames > 1 and not job.of_several:
        warn(f"warning: {path}: {picture.frames} frames or pages, only the first is restored; --all-frames takes all")
    for warning in picture.warnings:
        warn(f"warning: {path}: {warning}")
    if job.bits < picture.bits:
        lost = f"its {picture.bits} bits per sample become {job.bits}"
        warn(f"warning: {path}: {lost}, which --format png and tiff would keep")


def mask_of(item: Input, picture: io.Picture, where: Path | None) -> tuple[Path, str] | None:
    """The file of what is protected in a picture, known to fit it, and the digest of its bytes.

    Raises:
        InputError: it cannot be read, or has another shape than the picture.
    """
    path = None if where is None else mask_for(where, item.stem)
    if path is None:
        if where is not None:
            warn(f"warning: {item.path}: {where} holds no mask for it, so nothing is protected")
        return None
    read_mask(path, picture.rgb)
    return path, hashlib.sha256(io.contents(path)).hexdigest()


def bits_of(result: str, picture: io.Picture, format: str) -> int:
    """The bits per sample of a result of that name and --format."""
    if format in ALWAYS_DEEP:
        return 16
    return picture.bits if io.OUTPUT_FORMATS[Path(result).suffix] in io.DEEP_FORMATS else 8


def outputs_of(name: str, picture: io.Picture, args: argparse.Namespace) -> dict[str, str]:
    """The files that are to be written for a picture, by their kind; `name` begins their names."""
    suffix = SUFFIXES.get(args.format) or KEPT.get(picture.format or "", ".png")
    outputs = {"result": f"{name}{suffix}"}
    if args.save_reference:
        outputs["reference"] = f"{name}_reference{suffix}"
    if args.show_invented:
        outputs["invented"] = f"{name}_invented.png"
    if args.compare:
        outputs["compare"] = f"{name}_compare.png"  # three pictures in a row are soon too wide for WebP
    if args.preview:
        outputs[PREVIEW] = f"{name}_preview.png"
    return outputs


def announcement(jobs: Sequence[Job], process_size: int) -> str:
    """A line that states how many pictures there are and how much memory they need."""
    sizes = [resizing.working_size(job.size, process_size) for job in jobs]
    height, width = max(sizes, key=lambda size: memory.need(*size))
    needed = memory.in_words(memory.need(height, width))
    pictures = "1 picture" if len(jobs) == 1 else f"{len(jobs)} pictures, the largest"
    return f"{pictures} of {width}x{height} px; about {needed} of memory besides the networks"


def described(jobs: Sequence[Job], manifest: Manifest, process_size: int, log: Log) -> None:
    """Tells what would be done: every picture with its sizes and its result, memory, and a guess at the time."""
    for job in jobs:
        height, width = job.size
        need = memory.need(*resizing.working_size(job.size, process_size))
        file = str(manifest.place(job.entry.outputs["result"]))
        text = f"{job.path} -> {file}, {width}x{height} px, about {memory.in_words(need)}"
        log.outputs("plan", text, job.path, job.entry.outputs, width=width, height=height, bytes=need)
    rate = manifest.rate(jobs[0].entry.settings)
    if rate is None:
        log.note("no time is guessed: nothing has been restored into this folder with these settings")
        return
    seconds = rate * sum(math.prod(job.size) for job in jobs)
    log.note(f"about {seconds:,.0f} s, as fast as the pictures that were restored into this folder with these settings")


def absent(jobs: Sequence[Job], manifest: Manifest, log: Log) -> list[Job]:
    """The pictures of whose results no file is there, whoever wrote it; a line says how many are left out."""
    remaining = [job for job in jobs if not os.path.lexists(manifest.place(job.entry.outputs["result"]))]
    for job in jobs:
        if job not in remaining:
            log.tell("skipped", None, input=str(job.path), output=job.entry.outputs["result"])
    log.note(f"skipping: the results of {len(jobs) - len(remaining)} of {len(jobs)} pictures exist")
    return remaining


def unfinished(jobs: Sequence[Job], manifest: Manifest, log: Log) -> list[Job]:
    """The pictures that are not finished with their settings; a line says how many are."""
    remaining = [job for job in jobs if not manifest.finished(job.entry)]
    log.note(f"resuming: {len(jobs) - len(remaining)} of {len(jobs)} pictures are finished")
    return remaining


def claim(jobs: Sequence[Job], manifest: Manifest, faults: Faults, overwrite: bool) -> list[Job]:
    """Claims for this run the pictures whose files belong to nobody else."""
    reasons = manifest.claim([job.entry for job in jobs], overwrite)
    for job, reason in zip(jobs, reasons, strict=True):
        if reason is not None:
            faults.add(job.path, f"{job.path}: {reason}")
    return [job for job, reason in zip(jobs, reasons, strict=True) if reason is None]


def record(write: Callable[[], None], manifest: Manifest, faults: Faults) -> bool:
    """Writes to the manifest, and says whether that worked; a full disk must not end the run."""
    try:
        write()
    except InputError as error:
        faults.add(manifest.folder, error)
        return False
    return True


def reason_of(error: Exception) -> str:
    """A line that tells a person why a picture failed."""
    if isinstance(error, InputError):
        return str(error)
    if ran_out(error):
        return "does not fit into memory; a smaller --tile or --scale needs less, and so does --precision bf16"
    return f"{type(error).__name__}: {error}; this is a fault in the program, and the manifest has its traceback"
