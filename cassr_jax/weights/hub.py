"""Weights by hub id: `owner/name` or `owner/name:folder`, through huggingface_hub and its cache."""

import logging
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import NamedTuple

from cassr_jax.errors import InputError
from cassr_jax.weights.transfer import Contents, contents_of, download

logger = logging.getLogger(__name__)

PIPELINE = "model_index.json"  # marks the folder of a whole pipeline
SCHEDULER = "scheduler/scheduler_config.json"  # describes the noise on which a pipeline's U-Net was trained

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<folder>[\w./-]+))?")


class Part(NamedTuple):
    """What is wanted from a repository: the files of one network, LoRA or tokenizer.

    Attributes:
        source: a hub id.
        what: what it is, for messages.
        folders: the folders where it may be, best first, unless the id names the folder; then the repository itself.
        groups: the names of its files, best group first; a group is there if the first of its names is, and the others
            are patterns.
        beside: the names of other files of its folder, which are fetched if they are there.
        scheduled: whether a pipeline's scheduler, which lies in the folder above, says how it was trained.
    """

    source: str
    what: str
    folders: Sequence[str]
    groups: Sequence[Sequence[str]]
    beside: Sequence[str] = ()
    scheduled: bool = False


def is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None


def is_repository(name: str) -> bool:
    """Whether it is a hub id without a folder: `owner/name`."""
    parts = _HUB_ID.fullmatch(name)
    return parts is not None and not parts["folder"]


def fetch(part: Part) -> Path:
    """Fetches one part of a repository; returns its folder in the hub's local cache.

    Raises:
        InputError: as `fetch_all`.
    """
    return fetch_all({"": part})[""]


def fetch_all(parts: Mapping[str, Part], missing: Mapping[str, str] | None = None, where: str = "") -> dict[str, Path]:
    """Fetches parts of repositories with one progress bar; returns the folder of each in the hub's local cache.

    Only their own files are fetched, and nothing before it is known where all of them are.

    Args:
        parts: name of a part -> what it is.
        missing: name of another part that is not there -> a sentence about it.
        where: the name of what the parts belong to; if it is given, the error names every part.

    Raises:
        InputError: some are `missing`, the hub cannot be reached and its cache lacks a part, a repository has none that
            fits, or the disk has no room. The message names them all and says what to do.
    """
    contents = {name: contents_of(name) for name in dict.fromkeys(_split(part.source)[0] for part in parts.values())}
    chosen: dict[str, tuple[str, str]] = {}  # the part's name -> repository and folder
    wanted: dict[str, set[str]] = {name: set() for name in contents}
    faults = dict(missing or {})
    for name, part in parts.items():
        repository, inner = _split(part.source)
        found = _find(part, inner, contents[repository])
        if found is None:
            faults[name] = _absent(part, inner, contents[repository])
            continue
        folder, files = found
        chosen[name] = repository, folder
        wanted[repository] |= files
    if faults and not where:
        raise InputError("; ".join(faults.values()))
    if faults:
        listed = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise InputError(
            f"{where}: lacks {', '.join(faults)} (docs/weights.md says where they can be downloaded). {listed}"
        )
    folders = download(wanted, contents)
    return {name: folders[repository] / folder for name, (repository, folder) in chosen.items()}


def fetch_cascade(source: str, file: str, parts: Callable[[Path], Sequence[str]]) -> Path:
    """Fetches a cascade of a repository; returns its folder in the hub's local cache.

    Args:
        source: a hub id.
        file: the name of the cascade's description, which is fetched first.
        parts: given the folder with the description, the files and folders that the cascade names. Those that are there
            are fetched whole; one that is not must be another hub id.

    Raises:
        InputError: as `fetch_all`, or the repository lacks the description or a part.
    """
    repository, inner = _split(source)
    contents = contents_of(repository)
    description = posixpath.join(inner, file)
    if description not in contents.sizes:
        place = _places([inner])
        raise InputError(
            f"{source}: {place} holds no {file}, expected a cascade"
            if not contents.reason
            else f"{source}: not a local folder, and {place} cannot be fetched from the hub ({contents.reason}); "
            f"{contents.advice}"
        )
    folder = download({repository: {description}}, {repository: contents})[repository] / inner
    wanted, missing = {description}, []
    for name in parts(folder):
        found = contents.below(posixpath.join(inner, name))
        wanted |= found
        if not found and not is_hub_id(name):
            missing.append(name)
    if missing:
        offline = f"; the hub was not asked ({contents.reason}), and its local cache may have a part of it alone"
        raise InputError(
            f"{source}: lacks {', '.join(missing)}, which its {file} names" + offline * bool(contents.reason)
        )
    wanted |= contents.below(posixpath.join(inner, SCHEDULER))
    return download({repository: wanted}, {repository: contents})[repository] / inner


def is_inside(part: str) -> bool:
    """Whether a part's name may be a path within a folder."""
    path = Path(part)
    return not path.is_absolute() and ".." not in path.parts


def files_of(path: Path) -> list[str]:
    """The files of a part that is named by one of them: an ncnn network has its numbers in a second one."""
    return [path.as_posix(), *([path.with_suffix(".bin").as_posix()] if path.suffix == ".param" else [])]


def _split(source: str) -> tuple[str, str]:
    """The repository and the folder of a hub id; the folder is empty if the id names none."""
    id = _HUB_ID.fullmatch(source)
    if id is None or ".." in source:
        raise InputError(f"{source}: expected a hub id, `owner/name` or `owner/name:folder`")
    return id["repo"], (id["folder"] or "").strip("/")


def _find(part: Part, inner: str, contents: Contents) -> tuple[str, set[str]] | None:
    """The folder of a part and the names of its files; None if it is not there."""
    for group in part.groups:
        for folder in [inner] if inner else [*part.folders, ""]:
            if posixpath.join(folder, group[0]) not in contents.sizes:
                continue
            if (
                contents.reason
                and "config.json" in part.beside
                and posixpath.join(folder, "config.json") not in contents.sizes
            ):
                continue  # a part of a download: without it, other widths would be assumed
            within = {name: posixpath.relpath(name, folder or ".") for name in contents.below(folder or ".")}
            patterns = [*map(escape, (group[0], *part.beside)), *group[1:]]
            files = {name for name, own in within.items() if any(fnmatchcase(own, pattern) for pattern in patterns)}
            scheduler = posixpath.join(posixpath.dirname(folder), SCHEDULER)
            if part.scheduled and scheduler in contents.sizes:
                files.add(scheduler)
            elif part.scheduled and contents.reason:
                logger.warning(
                    "%s: the hub was not asked for a scheduler_config.json (%s) and its local cache has none, so the "
                    "noise schedule is taken to be the configuration's or Stable Diffusion 1.5's",
                    part.source,
                    contents.reason,
                )
            return folder, files
    return None


def _absent(part: Part, inner: str, contents: Contents) -> str:
    places = _places([inner] if inner else [*part.folders, ""])
    if not contents.reason:
        return f"{part.source}: {places} has no {part.what}, such as {part.groups[0][0]}"
    return (
        f"{part.source}: not a local file or folder, and {places} cannot be fetched from the hub ({contents.reason}); "
        f"{contents.advice}"
    )


def _places(places: Sequence[str]) -> str:
    return " or ".join(f"its folder {folder}" if folder else "the repository itself" for folder in places)
