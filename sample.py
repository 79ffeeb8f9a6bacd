#!/usr/bin/env python
"""Super-resolve photographs: python sample.py photo.jpg --output restored

First everything that can be wrong with the arguments and the files is found, then the networks are loaded, then one
picture after the other is restored. A picture that fails costs one line on stderr, not the run.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.inputs import Input, find
from cassr_jax.imaging.manifest import Entry, Manifest, sha256

# Repeated from cassr_jax.config, which would bring JAX with it; a test holds them together.
ACTIVATIONS = ("scedit", "controlnet", "rrdbnet", "identity")
SAMPLERS = ("ddim", "euler", "dpmpp_2m", "unipc")
STARTS = ("lr", "reference", "noise")
PRECISIONS: dict[str, Literal["float32", "bfloat16", "float16"]] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
SUFFIXES = {"png": ".png", "jpg": ".jpg", "webp": ".webp"}
KEPT = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}

EPILOG = """
examples:
  python sample.py photo.jpg                          output/photo.png, four times as wide and high
  python sample.py holiday/ --output out --compare    every picture of a folder and its sub-folders
  python sample.py holiday/ --output out --resume     goes on where that run was stopped
  python sample.py photo.jpg --seed 7 --steps 20      another variation, with fewer steps

exit code: 0 all pictures restored, 2 an argument is wrong or at least one picture failed (one line each on stderr).
Of an animation the first frame is restored, with a warning. Transparency and the colour profile are kept, other
metadata are not. OUTPUT/manifest.json records for every picture its settings, seed and files.
"""


@dataclass(frozen=True)
class Job:
    path: Path
    entry: Entry


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        # 1. What there is to do, and every file that cannot be done.
        inputs = find(args.inputs, exclude=args.output)
        manifest = Manifest(args.output)
        jobs, failed = plan(inputs, args, manifest)
        if not jobs:
            return 2 if failed else 0
        manifest.put(*(job.entry for job in jobs))  # whose files these will be, should the run be stopped

        # 2. The networks. Only now: JAX alone takes seconds to import.
        keep_compiled_functions()
        import cassr_jax
        from cassr_jax.loading import trained

        dtype = PRECISIONS.get(args.precision)
        cassr = cassr_jax.load(args.config, activation=args.activation, dtype=dtype, devices=args.devices)
        if (found := trained(args.config)) is not None:
            say(f"{found[0]}: {found[1]['weights']} weights of step {found[1]['step']}")
    except InputError as error:
        complain(error)
        return 2

    # 3. One picture after the other.
    for number, job in enumerate(jobs, 1):
        start = time.monotonic()
        with tqdm(desc=job.path.name, disable=None, leave=False) as bar:
            try:
                restore(cassr, job, args, progress=reporter(bar, f"{job.path.name} ({number}/{len(jobs)})"))
            except InputError as error:
                failed += 1
                manifest.put(replace(job.entry, status="failed", error=str(error)))
                complain(error if str(job.path) in str(error) else f"{job.path}: {error}", bar)
                continue
        seconds = time.monotonic() - start
        manifest.put(replace(job.entry, status="done", seconds=round(seconds, 2)))
        say(f"{job.path} -> {args.output / job.entry.outputs['result']} ({seconds:.1f} s)")
    return 2 if failed else 0


def keep_compiled_functions() -> None:
    """What JAX compiles, seconds of work, is kept for the next run; JAX reads these variables when it is imported."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "cassr_jax" / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def plan(inputs: Sequence[Input], args: argparse.Namespace, manifest: Manifest) -> tuple[list[Job], int]:
    """The pictures to restore, each read once to its end, and the number of those that cannot be.

    Raises:
        InputError: two results would be one file, or one would replace a file that is no earlier result.
    """
    jobs, failed = [], 0
    for item in tqdm(inputs, desc="reading", disable=None, leave=False, delay=1):
        try:
            picture = io.read(item.path)
            outputs = outputs_of(item, picture, args)
            height, width = picture.rgb.shape[:2]
            height, width = io.output_size(height, width, args.scale)
            io.check_writable(args.output / outputs["result"], height, width, picture.alpha)
            digest = sha256(item.path)
        except InputError as error:
            failed += 1
            complain(error if str(item.path) in str(error) else f"{item.path}: {error}")
            continue
        if picture.frames > 1:
            complain(f"warning: {item.path}: {picture.frames} frames or pages, only the first is restored")
        jobs.append(Job(item.path, Entry(str(item.path), digest, outputs, settings_of(args))))

    owners: dict[str, Path] = {}
    for job in jobs:
        for file in job.entry.outputs.values():
            other = owners.setdefault(file.casefold(), job.path)
            if other != job.path:
                raise InputError(f"{job.path} and {other} would both be written to {args.output / file}")
    if args.resume:
        remaining = [job for job in jobs if not manifest.finished(job.entry)]
        say(f"resuming: {len(jobs) - len(remaining)} of {len(jobs)} pictures are finished")
        jobs = remaining
    for job in jobs:
        manifest.check_free(job.entry)
    return jobs, failed


def restore(cassr: Any, job: Job, args: argparse.Namespace, progress: Callable[[str, int, int], None]) -> None:
    """Restores one picture and writes its files, the result last."""
    picture = io.read(job.path)
    restoration = cassr.restore(
        io.fill_hidden(picture),
        scale=args.scale,
        seed=args.seed,
        steps=args.steps,
        guidance_scale=args.guidance,
        color_fix=args.color_fix,
        reference_weight=args.reference_weight,
        tile=args.tile,
        sampler=args.sampler,
        start=args.start,
        strength=args.strength,
        progress=progress,
    )
    images = {
        "compare": lambda: io.Picture(
            io.side_by_side([restoration.bicubic, restoration.reference, restoration.result]), icc=picture.icc
        ),
        "reference": lambda: io.with_rgb(picture, restoration.reference),
        "result": lambda: io.with_rgb(picture, restoration.result),
    }
    for kind, image in images.items():
        if kind in job.entry.outputs:
            io.write(args.output / job.entry.outputs[kind], image())


def outputs_of(item: Input, picture: io.Picture, args: argparse.Namespace) -> dict[str, str]:
    suffix = SUFFIXES.get(args.format) or KEPT.get(picture.format or "", ".png")
    outputs = {"result": f"{item.stem}{suffix}"}
    if args.save_reference:
        outputs["reference"] = f"{item.stem}_reference{suffix}"
    if args.compare:
        outputs["compare"] = f"{item.stem}_compare.png"  # three times as wide: too wide for WebP sooner
    return outputs


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What decides the pixels; null is the configuration's own value."""
    names = ("config", "scale", "seed", "steps", "guidance", "activation", "color_fix", "sampler", "start", "strength")
    names += ("reference_weight", "tile", "precision")
    try:
        program = version("cassr-jax")
    except PackageNotFoundError:
        program = None
    return {"version": program} | {name: getattr(args, name) for name in names}


def reporter(bar: tqdm, name: str) -> Callable[[str, int, int], None]:
    """Shows (stage, done, total) on the bar, which starts anew with each stage."""

    def report(stage: str, done: int, total: int) -> None:
        if bar.disable:
            return
        label = f"{name}: {stage}"
        if bar.desc != f"{label}: " or bar.total != total:
            bar.reset(total=total)
            bar.set_description(label, refresh=False)
        bar.update(done - bar.n)

    return report


def say(message: str) -> None:
    print(message.encode(errors="backslashreplace").decode(), flush=True)  # a file name need not be valid text


def complain(message: object, bar: tqdm | None = None) -> None:
    if bar is not None:
        bar.clear()
    print("sample.py:", *str(message).splitlines(), file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sample.py",
        description="Super-resolve photographs with CasSR.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="picture files, or folders: searched with their sub-folders")
    add("--output", type=Path, default=Path("output"), metavar="DIR", help="where results go (default: %(default)s)")
    add("--scale", type=positive(float), default=4.0, help="output size over input size (default: 4)")
    add("--seed", type=seed, default=0, help="0 to 2**63 - 1; the same seed gives the same pixels (default: 0)")
    add("--config", default="tiny", help="tiny (ships with the program), a file of configs/ or a folder of weights")
    add("--resume", action="store_true", help="skip pictures that this output folder has with the same settings")

    files = parser.add_argument_group("what is written")
    add = files.add_argument
    add("--format", choices=[*SUFFIXES, "keep"], default="png", help="keep: as the input, else png (default: png)")
    add("--save-reference", action="store_true", help="also the first stage's picture, NAME_reference")
    add("--compare", action="store_true", help="also bicubic | reference | result in a row, NAME_compare.png")

    sampling = parser.add_argument_group("sampling", "Left out, each is what the configuration says.")
    add = sampling.add_argument
    add("--steps", type=positive(int), metavar="N", help="sampling steps of each stage; fewer is faster and softer")
    add("--guidance", type=finite, metavar="S", help="classifier-free guidance scale; 1 is off and twice as fast")
    add("--activation", choices=ACTIVATIONS, help="first stage: what makes the reference picture")
    add("--color-fix", choices=sorted(COLOR_FIXES), help="how colours are brought back to the input's")
    add("--reference-weight", type=share, metavar="W", help="in [0, 1]: share of the reference in the result")
    add("--sampler", choices=SAMPLERS)
    add("--start", choices=STARTS, help="what the initial noise is mixed into: the input, the reference, nothing")
    add("--strength", type=strength, help="in (0, 1]: how far from that start the sampling may go")
    add("--tile", type=positive(int), metavar="PX", help="side of a tile of the output; smaller needs less memory")
    add("--devices", type=positive(int), metavar="N", help="that share a picture's tiles (default: all, or one CPU)")
    add("--precision", choices=list(PRECISIONS), help="of the computation")
    args = parser.parse_args(argv)
    output = args.output.resolve()
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output}: is a file, expected a folder")
    if any(Path(given).is_dir() and Path(given).resolve() == output for given in args.inputs):
        parser.error(f"--output {args.output}: is an input folder too, expected another")
    if args.config.endswith(".py") and not Path(args.config).is_file():
        parser.error(f"--config {args.config}: no such file")
    return args


def seed(text: str) -> int:
    value = whole(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is outside 0 to {2**63 - 1} (2**63 - 1)")
    return value


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = whole(text) if kind is int else finite(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def share(text: str) -> float:
    value = finite(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is outside [0, 1]")
    return value


def strength(text: str) -> float:
    value = finite(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is outside (0, 1]")
    return value


if __name__ == "__main__":
    sys.exit(main())
