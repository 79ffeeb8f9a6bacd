"""Make test sets like the paper's: folders lr/ and hr/ with pictures of the same names, and a manifest.

    python -m cassr_jax.commands.testset degraded --photos DIV2K_valid_HR --output data/div2k_val
    python -m cassr_jax.commands.testset tiles --photos PHOTOS --count 100 --preset light --output data/tiles
    python -m cassr_jax.commands.testset crops --lr RealSR/Canon/Test/4 --hr RealSR/Canon/Test/4 --output data/realsr
    python -m cassr_jax.commands.testset check data/realsr

`degraded` degrades whole photographs; picture i, in the order of the names, gets seed i. `tiles` degrades sharp tiles
of 256 px spread over the photographs, like those that the embedded model is judged by; tile i gets seed i. `crops` cuts
the middles out of registered pairs: 128 px of LR and the same part of HR, 512 px. `check` tells whether a set is what
its manifest says. A set appears only when it is complete, and a set that exists stays as it is.
"""

import argparse
import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cassr_jax.commands.options import local_path, number
from cassr_jax.commands.running import command
from cassr_jax.data.crops import TILE
from cassr_jax.data.degradation import degrade
from cassr_jax.data.presets import PRESETS, Preset
from cassr_jax.data.sources import picture_files, read_rgb
from cassr_jax.errors import InputError
from cassr_jax.evaluation.pairing import by_name, by_stem
from cassr_jax.evaluation.tiles import Pair, degraded_crops, degraded_tiles
from cassr_jax.files import Json, check_outside, exists, is_file, read_json, write_json
from cassr_jax.imaging import io
from cassr_jax.imaging.manifest import sha256
from cassr_jax.imaging.pixels import size_text
from cassr_jax.locks import taking_turns
from cassr_jax.printing import progress_bar, say
from cassr_jax.ranges import COUNT

SCALE, LR_SIDE = 4, 128
MANIFEST, VERSION = "manifest.json", 1
# How the names of a pair differ: RealSR has Canon_001_LR4.png and Canon_001_HR.png, DRealSR has sony_1_x4.png and
# sony_1_x1.png.
_MARKS = {"lr": re.compile(r"_(LR4|x4)$"), "hr": re.compile(r"_(HR|x1)$")}

Images = tuple[np.ndarray, np.ndarray]  # lr (h, w, 3) and hr (4h, 4w, 3), uint8


@dataclass(frozen=True)
class Planned:
    """A pair that is still to be made.

    Attributes:
        name: the name that both pictures will have.
        sources: the files that the pair is made from.
        make: makes the pair; raises InputError if that is impossible.
    """

    name: str
    sources: tuple[Path, ...]
    make: Callable[[], Images]


def degraded_pairs(photos: Path, preset: Preset) -> list[Planned]:
    """Plan a pair from every whole picture of a folder, cut so that its sides are multiples of 4.

    The truth is the picture itself, even if the preset degrades a sharpened version, which is a target for training
    only.

    Raises:
        InputError: the folder is missing, or holds no picture or two of the same name.
    """

    def make(path: Path, seed: int) -> Images:
        hr = read_rgb(path)
        height, width = (side // SCALE * SCALE for side in hr.shape[:2])
        if not height or not width:
            raise InputError(f"{path}: {size_text(hr)}, expected sides of at least {SCALE} px")
        hr = np.ascontiguousarray(hr[:height, :width])
        return degrade(hr, seed, preset, scale=SCALE)[0], hr

    found = by_stem(photos)
    return [
        Planned(name, (path,), lambda path=path, seed=seed: make(path, seed))
        for seed, (name, path) in enumerate(found.items())
    ]


def tiled_pairs(photos: Path, preset: Preset, count: int) -> list[Planned]:
    """Plan pairs from `count` sharp tiles, named after their picture and their top left corner.

    See `evaluation.tiles.degraded_tiles`.

    Raises:
        InputError: the folder is missing, holds no picture or too few sharp tiles, or a picture cannot be read.
    """
    return _from_photos(photos, degraded_tiles(photos, count, preset))


def sharpest_pairs(photos: Path, preset: Preset, count: int) -> list[Planned]:
    """Plan pairs from the sharpest 512 px crop of at most `count` pictures, named in the same way.

    See `evaluation.tiles.degraded_crops`.

    Raises:
        InputError: the folder is missing or holds no picture, no picture has such a crop, or one cannot be read.
    """
    return _from_photos(photos, degraded_crops(photos, count, preset))


def _from_photos(photos: Path, pairs: Sequence[Pair]) -> list[Planned]:
    def planned(pair: Pair) -> Planned:
        key, corner = pair.name.rsplit("@", 1)
        return Planned(f"{Path(key).with_suffix('').as_posix()}@{corner}", (photos / key,), lambda: (pair.lr, pair.hr))

    return [planned(pair) for pair in pairs]


def cropped_pairs(lr: Path, hr: Path, side: int = LR_SIDE) -> tuple[list[Planned], dict[str, str]]:
    """Plan pairs from the middle `side` px of each LR picture and the same part of its HR picture.

    Both folders may be the same: pictures that are marked as the other kind (`_HR`, `_LR4`; `_x1`, `_x4`) are passed
    over. The names are compared without these marks.

    Returns:
        The pairs; and for each name that is only in one folder, which one.

    Raises:
        InputError: a folder is missing, or holds no such picture or two of the same name, or no name is in both.
    """

    def make(lr_path: Path, hr_path: Path) -> Images:
        small, large = read_rgb(lr_path), read_rgb(hr_path)
        if large.shape[:2] != (small.shape[0] * SCALE, small.shape[1] * SCALE):
            raise InputError(
                f"{hr_path}: {size_text(large)}, expected {SCALE} times the {size_text(small)} of {lr_path}"
            )
        if min(small.shape[:2]) < side:
            raise InputError(f"{lr_path}: {size_text(small)}, expected sides of at least {side} px")
        top, left = ((length - side) // 2 for length in small.shape[:2])
        return _cut(small, top, left, side), _cut(large, top * SCALE, left * SCALE, side * SCALE)

    small, large = _marked(lr, "lr"), _marked(hr, "hr")
    planned = [
        Planned(name, (small[name], large[name]), lambda name=name: make(small[name], large[name]))
        for name in sorted(small.keys() & large.keys())
    ]
    if not planned:
        raise InputError(f"no picture's name is in both {lr} and {hr}, expected the same names but for their marks")
    return planned, {name: f"only in {lr if name in small else hr}" for name in sorted(small.keys() ^ large.keys())}


def build(planned: Sequence[Planned], left_out: dict[str, str], settings: dict[str, object], output: Path) -> str:
    """Make the set at `output`, unless it exists; return a sentence on what is there.

    Args:
        planned: the pairs.
        left_out: name -> why no pair was planned.
        settings: how the pairs are made, for the manifest.
        output: the folder of the set.

    Raises:
        InputError: `output` holds another set or anything else, no pair can be made, or it cannot be written.
    """
    if not exists(output):
        with taking_turns(output):
            if not exists(output):  # still: another run may have made it meanwhile
                return _make(planned, left_out, settings, output)
    found = read_manifest(output)
    if found["settings"] != settings:
        raise InputError(f"{output}: made with {found['settings']}, now {settings}; expected another --output")
    names = found["pictures"].keys() | found["left_out"].keys()
    if changed := names ^ (left_out.keys() | {pair.name for pair in planned}):
        raise InputError(
            f"{output}: holds other pictures, {min(changed)} among them; expected the same, or another --output"
        )
    return f"{output}: exists already, pairs: {len(found['pictures'])}"


def _make(planned: Sequence[Planned], left_out: dict[str, str], settings: dict[str, object], output: Path) -> str:
    partial = output.with_name(f".{output.name}.partial")
    try:
        if exists(partial):  # a run was killed before it could finish
            shutil.rmtree(partial)
        pictures = {}
        for pair in progress_bar(planned, desc="making pairs", unit="pair"):
            try:
                images = pair.make()
            except InputError as error:
                left_out = left_out | {pair.name: str(error)}
                continue
            pictures[pair.name] = {"sources": [{"file": path.name, "sha256": sha256(path)} for path in pair.sources]}
            for kind, image in zip(("lr", "hr"), images, strict=True):
                io.write(partial / kind / f"{pair.name}.png", io.Picture(image))
                pictures[pair.name][kind] = pixels_sha256(image)
        if not pictures:
            raise InputError(
                f"none of {len(planned)} pairs could be made, expected at least one; {next(iter(left_out.values()))}"
            )
        versions = {name: version(name) for name in ("numpy", "opencv-python-headless", "pillow")}
        content = {"settings": settings, "versions": versions, "pictures": pictures, "left_out": left_out}
        write_json(partial / MANIFEST, {"version": VERSION} | content)
        partial.rename(output)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error})") from error
    lines = [f"{output}: pairs: {len(pictures)}, left out: {len(left_out)}"]
    return "\n".join(lines + [f"left out: {name} ({reason})" for name, reason in left_out.items()])


def check(folder: Path) -> Iterator[str]:
    """Give one sentence for each difference between a set and its manifest, and for what of it cannot be read.

    Raises:
        InputError: the manifest is missing or damaged.
    """
    pictures = read_manifest(folder)["pictures"]
    for kind in ("lr", "hr"):
        try:
            found = by_stem(folder / kind)
        except InputError as error:
            yield str(error)
            continue
        for name in sorted(found.keys() | pictures):
            if name not in pictures:
                yield f"{found[name]}: is not in the manifest"
            elif name not in found:
                yield f"{folder / kind / name}: is missing"
            else:
                yield from _differences(found[name], pictures[name][kind])


def _differences(file: Path, expected: str) -> Iterator[str]:
    """A sentence if the pixels of `file` have another hash than expected, or cannot be read."""
    try:
        digest = pixels_sha256(read_rgb(file))
    except InputError as error:
        yield str(error)
        return
    if digest != expected:
        yield f"{file}: its pixels' SHA-256 is {digest[:12]}..., expected {expected[:12]}..."


def read_manifest(folder: Path) -> Json:
    """Read the manifest of a set.

    Returns:
        `settings`; `pictures`, by name, each with its sources and its hashes of lr and hr; `left_out`, with reasons.

    Raises:
        InputError: the manifest is missing, damaged, or not one of this program.
    """
    file = folder / MANIFEST
    if not is_file(file):
        raise InputError(f"{file}: no such file, expected the manifest of a test set")
    content = read_json(file)
    if content.get("version") != VERSION:
        raise InputError(f"{file}: version is {content.get('version')!r}, expected {VERSION}, that of a test set")
    for name, fields in (("settings", ()), ("pictures", ("lr", "hr")), ("left_out", ())):
        entries = content.get(name)
        whole = isinstance(entries, dict) and all(
            isinstance(entry, dict) and isinstance(entry.get(part), str)
            for part in fields
            for entry in entries.values()
        )
        if not whole:
            raise InputError(f"{file}: {name} is damaged, expected what testset writes; make the set again")
    return {name: content[name] for name in ("settings", "pictures", "left_out")}


def pixels_sha256(image: np.ndarray) -> str:
    """SHA-256 of a picture's shape and pixels. Unlike a file's, it does not depend on the encoder."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def _marked(folder: Path, kind: str) -> dict[str, Path]:
    other = _MARKS["hr" if kind == "lr" else "lr"]
    stems = ((Path(key).with_suffix("").as_posix(), folder / key) for key in picture_files(folder))
    return by_name((_MARKS[kind].sub("", stem), path) for stem, path in stems if not other.search(stem))


def _cut(image: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.testset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    degraded = commands.add_parser("degraded", help="degrade whole photographs")
    tiles = commands.add_parser("tiles", help="degrade sharp tiles of photographs")
    tiles.add_argument("--count", type=number(COUNT), default=100, help="number of tiles (default: %(default)s)")
    for made in (degraded, tiles):
        made.add_argument("--photos", type=local_path, required=True, help="folder of sharp pictures")
        made.add_argument("--preset", choices=PRESETS, default="realesrgan", help="the damage (default: %(default)s)")
    crops = commands.add_parser("crops", help="cut the middles out of registered pairs")
    crops.add_argument("--lr", type=local_path, required=True, help="folder of the low-resolution pictures")
    crops.add_argument(
        "--hr", type=local_path, required=True, help="folder of the high-resolution pictures; may be the same folder"
    )
    for made in (degraded, tiles, crops):
        made.add_argument("--output", type=local_path, required=True, help="folder for the set")
    commands.add_parser("check", help="compare a set with its manifest").add_argument("folder", type=local_path)
    return parser.parse_args(argv)


@command("testset")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.command == "check":
        wrong = list(check(arguments.folder))
        say("\n".join(wrong) or f"{arguments.folder}: is as its manifest says")
        return 1 if wrong else 0
    for name in ("photos", "lr", "hr"):
        if name in arguments:
            check_outside(arguments.output, getattr(arguments, name), f"--{name}")
    left_out = {}
    match arguments.command:
        case "degraded":
            planned = degraded_pairs(arguments.photos, PRESETS[arguments.preset])
            settings = {"kind": "degraded", "preset": arguments.preset, "scale": SCALE}
        case "tiles":
            planned = tiled_pairs(arguments.photos, PRESETS[arguments.preset], arguments.count)
            settings = {"kind": "tiles", "preset": arguments.preset, "scale": SCALE, "hr": TILE}
        case _:
            planned, left_out = cropped_pairs(arguments.lr, arguments.hr)
            settings = {"kind": "crops", "lr": LR_SIDE, "hr": LR_SIDE * SCALE}
    say(build(planned, left_out, settings, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
