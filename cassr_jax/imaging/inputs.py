"""Which pictures a command line means, and which output each one gets."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cassr_jax.errors import InputError

READABLE_SUFFIXES = {
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".dib",
}
READABLE_SUFFIXES |= {".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"}
# Not readable here, yet a person who has them must hear of it rather than miss them in the output.
PICTURE_SUFFIXES = READABLE_SUFFIXES | {".heic", ".heif", ".jxl"}


@dataclass(frozen=True)
class Input:
    """A picture to read, and where below the output folder its results go: `output / f"{stem}.png"`.

    Attributes:
        path: the file.
        stem: relative, without suffix, may hold sub-folders ("holiday/beach").
    """

    path: Path
    stem: str


def find(inputs: Sequence[str | os.PathLike[str]], exclude: str | os.PathLike[str] | None = None) -> list[Input]:
    """The pictures that files and folders stand for, in a fixed order, no two with the same stem.

    A file is taken whatever its name. A folder is searched with all its sub-folders (symbolic links to folders are not
    followed) for names that end like a picture's; hidden files and everything else in it is passed over. A file met
    twice counts once.

    The stem is the name below the given folder without its suffix. Where two would share one (a.jpg and a.png, or the
    same name on a file system that ignores case) they keep the suffix (a_jpg, a_png); where that is not enough (x/a.png
    and y/a.png from folders x and y) the given folder's name goes before it (x/a); then a number follows.

    Args:
        inputs: files and folders.
        exclude: a folder not to search, the output folder, so that a second run does not take up the first one's
            results. An input that is this folder itself is searched all the same.

    Raises:
        InputError: an input does not exist, is neither file nor folder, or no picture was found.
    """
    found: dict[Path, tuple[Path, Path, str]] = {}  # by real path: path, path below the given folder, folder's name
    for given in map(Path, inputs):
        if given.is_dir():
            pictures = list(_pictures_below(given, None if exclude is None else Path(exclude)))
            if not pictures:
                raise InputError(f"{given}: no picture in this folder (a name ending in .png, .jpg, .webp, ...)")
            for path in pictures:
                found.setdefault(path.resolve(), (path, path.relative_to(given), given.resolve().name))
        elif given.is_file():
            found.setdefault(given.resolve(), (given, Path(given.name), given.resolve().parent.name))
        elif given.exists():
            raise InputError(f"{given}: neither a file nor a folder")
        else:
            raise InputError(f"{given}: no such file or folder")
    if not found:
        raise InputError("no input given, expected picture files or folders")
    stems = _distinct([_candidates(below, folder) for _, below, folder in found.values()])
    return [Input(path, stem) for (path, _, _), stem in zip(found.values(), stems, strict=True)]


def _pictures_below(folder: Path, exclude: Path | None) -> Iterator[Path]:
    excluded = None if exclude is None or exclude.resolve() == folder.resolve() else exclude.resolve()
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(root) / name).resolve() != excluded
        )
        for name in sorted(files):
            path = Path(root) / name
            if path.suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _candidates(below: Path, folder: str) -> list[str]:
    plain = below.with_suffix("").as_posix()
    with_suffix = plain + below.suffix.replace(".", "_")
    return [plain, with_suffix, f"{folder}/{plain}", f"{folder}/{with_suffix}"]


def _distinct(candidates: list[list[str]]) -> list[str]:
    """For each input the first of its candidates that no other input wants at the same level, numbered at the end."""
    level = [0] * len(candidates)
    while True:
        stems = [names[at] for names, at in zip(candidates, level, strict=True)]
        wanted = Counter(stem.casefold() for stem in stems)
        clash = [i for i, stem in enumerate(stems) if wanted[stem.casefold()] > 1]
        if not any(level[i] + 1 < len(candidates[i]) for i in clash):
            return _numbered(stems)
        for i in clash:
            level[i] = min(level[i] + 1, len(candidates[i]) - 1)


def _numbered(stems: list[str]) -> list[str]:
    taken = {stem.casefold() for stem in stems}
    seen: set[str] = set()
    distinct = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in seen:
            number += 1
            candidate = f"{stem}_{number}"
            name = candidate if candidate.casefold() not in taken else name
        seen.add(name.casefold())
        distinct.append(name)
    return distinct
