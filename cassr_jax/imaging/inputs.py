"""The pictures that a command line names, and the output of each."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.files import check_local, exists, files_below, is_file, is_folder, same_place
from cassr_jax.imaging.decoding import FORMATS, PLUGINS

STREAM = "-"  # in place of a file: stdin or stdout

READABLE_SUFFIXES = frozenset(
    [
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
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".jp2",
        ".j2k",
        *(suffix for name, suffixes in PLUGINS.items() if name in FORMATS for suffix in suffixes),
    ]
)
# Pictures that cannot be read here. They are reported, so that nobody finds them missing from the output later.
OTHER_SUFFIXES = frozenset(
    [
        *(suffix for name, suffixes in PLUGINS.items() if name not in FORMATS for suffix in suffixes),
        ".psd",
        ".psb",
        ".xcf",
        ".tga",
        ".dds",
        ".exr",
        ".hdr",
        ".ico",
        ".icns",
        ".pcx",
        ".svg",
        ".eps",
        ".jxr",
        ".qoi",
        ".raw",
        ".dng",
        ".cr2",
        ".cr3",
        ".crw",
        ".nef",
        ".nrw",
        ".arw",
        ".srf",
        ".sr2",
        ".orf",
        ".raf",
        ".rw2",
        ".pef",
        ".srw",
        ".erf",
        ".kdc",
        ".dcr",
        ".mrw",
        ".x3f",
        ".3fr",
        ".iiq",
        ".mef",
        ".mos",
        ".rwl",
    ]
)


@dataclass(frozen=True)
class Input:
    """A picture to read, and where its result goes: `output / f"{stem}.png"`.

    Attributes:
        path: the file.
        stem: a relative path without suffix, possibly with sub-folders ("holiday/beach").
    """

    path: Path
    stem: str


@dataclass(frozen=True)
class Found:
    """What was found among the given files and folders.

    Attributes:
        pictures: the pictures in a fixed order, each with a stem of its own.
        passed_over: pictures in the folders whose formats cannot be read, judged by their names.
        unreadable: a line for each folder or link that cannot be read, saying why.
        broken: links in the folders that lead nowhere.
    """

    pictures: list[Input]
    passed_over: list[Path]
    unreadable: list[str]
    broken: list[Path]


def find(
    inputs: Sequence[str | os.PathLike[str]],
    exclude: str | os.PathLike[str] | None = None,
    recursive: bool = True,
    flat: bool = False,
) -> Found:
    """The pictures in the given files and folders.

    A file is accepted whatever its name. A folder and its sub-folders, including linked ones, are searched for names
    with a picture's suffix; hidden files and everything else are ignored. A file found twice counts once.

    The stem is the path below the given folder without its suffix. Pictures that would share a stem (a.jpg and a.png,
    or names that differ only in case) keep their suffix (a_jpg, a_png). If they still clash (x/a.png and y/a.png from
    folders x and y), the given folder's name is put in front (x/a); in the end they are numbered.

    Args:
        inputs: files and folders.
        exclude: a folder not to search. Passing the output folder keeps a second run from restoring the results of the
            first. An input that is this very folder is searched all the same.
        recursive: whether the sub-folders of folders are searched.
        flat: leave the sub-folders out of the stems, unless pictures would clash.

    Raises:
        InputError: inputs do not exist, all of which are named, one cannot be looked up or is neither file nor folder,
            or no picture was found.
    """
    found: dict[Path, tuple[Path, Path, str]] = {}  # by real path: path, path below the given folder, folder's name
    passed_over: list[Path] = []
    unreadable: list[str] = []
    broken: list[Path] = []
    texts = [os.fspath(given) for given in inputs]
    for text in texts:
        check_local(text, "an input")
    if missing := [text for text in texts if not exists(Path(text))]:
        raise InputError(f"{', '.join(missing)}: no such file or folder, expected picture files or folders")
    for text in texts:
        given = Path(text)
        if is_folder(given):
            inside = None if exclude is None or same_place(Path(exclude), given) else Path(exclude)
            failed = partial(_add_reason, unreadable)
            files = list(files_below(given, inside, failed, broken.append, recursive))
            pictures = [path for path in files if path.suffix.lower() in READABLE_SUFFIXES]
            others = [path for path in files if path.suffix.lower() in OTHER_SUFFIXES]
            if not pictures:
                raise InputError("; ".join([f"{given}: {_no_picture(others, broken)}", *unreadable]))
            for path in pictures:
                found.setdefault(path.resolve(), (path, path.relative_to(given), _named(given).name))
            passed_over += others
        elif is_file(given):
            found.setdefault(given.resolve(), (given, Path(given.name), _named(given).parent.name))
        else:
            raise InputError(f"{given}: is neither a file nor a folder, expected picture files or folders")
    if not found:
        raise InputError("no input given, expected picture files or folders")
    stems = _distinct([_candidates(below, folder, flat) for _, below, folder in found.values()])
    pictures = [Input(path, stem) for (path, _, _), stem in zip(found.values(), stems, strict=True)]
    return Found(pictures, passed_over, unreadable, broken)


def _named(path: Path) -> Path:
    """The absolute path with links kept: a link's target may have a meaningless name."""
    return Path(os.path.abspath(path))


def count_suffixes(paths: Sequence[Path]) -> str:
    """How many files there are of each kind: "3 .dng, 1 .psd"."""
    counts = Counter(path.suffix.lower() for path in paths)
    told = ", ".join(f"{count} {suffix}" for suffix, count in counts.items())
    lacking = any(suffix in counts for suffixes in PLUGINS.values() for suffix in suffixes)
    return f"{told} (HEIC and JPEG XL need the extra `heif`)" if lacking else told


def _add_reason(reasons: list[str], reason: InputError) -> None:
    reasons.append(str(reason))


def _no_picture(others: Sequence[Path], broken: Sequence[Path]) -> str:
    message = "no picture in this folder that can be read (a name ending in .png, .jpg, .webp, ...)"
    passed = [*([count_suffixes(others)] if others else []), *([f"{len(broken)} broken links"] if broken else [])]
    return f"{message}; passed over: {', '.join(passed)}" if passed else message


def _candidates(below: Path, folder: str, flat: bool) -> list[str]:
    plain = below.with_suffix("").as_posix()
    suffix = below.suffix.replace(".", "_")
    folder = folder or "root"  # the root folder has no name, and a leading slash would leave the output folder
    if flat:
        whole = plain.replace("/", "_")
        return [below.stem, whole, whole + suffix, f"{folder}_{whole}", f"{folder}_{whole}{suffix}"]
    return [plain, plain + suffix, f"{folder}/{plain}", f"{folder}/{plain}{suffix}"]


def _distinct(candidates: list[list[str]]) -> list[str]:
    """The first candidate of each input that no other input claims at the same level; remaining clashes get numbers."""
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
