"""Weights by hub id: `owner/name` or `owner/name:folder`, through huggingface_hub and its cache."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.files import is_file
from cassr_jax.weights.files import find_weights

PIPELINE = "model_index.json"  # marks the folder of a whole pipeline
SCHEDULER = "scheduler/scheduler_config.json"  # describes the noise on which a pipeline's U-Net was trained

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<folder>[\w./-]+))?")


def is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None


def is_repository(name: str) -> bool:
    """Whether it is a hub id without a folder: `owner/name`."""
    parts = _HUB_ID.fullmatch(name)
    return parts is not None and not parts["folder"]


def fetch_cascade(source: str, file: str, parts: Callable[[Path], Sequence[str]]) -> Path:
    """Fetches a cascade of a repository; returns its folder in the hub's local cache.

    Args:
        source: a hub id.
        file: the name of the cascade's description, which is fetched first.
        parts: given the folder with the description, the paths in it that the cascade names; each is fetched if the
            repository has it, as a file or a folder.

    Raises:
        InputError: as `fetch`, or the repository has no such file.
    """
    id = _HUB_ID.fullmatch(source)
    if id is None or ".." in source:
        raise InputError(f"{source}: expected a hub id, `owner/name` or `owner/name:folder`")
    inner = Path((id["folder"] or "").strip("/"))
    places = [inner.as_posix() if id["folder"] else ""]
    folder = _snapshot(source, id["repo"], [(inner / file).as_posix()], places) / inner
    if not is_file(folder / file):
        raise InputError(f"{source}: {_places(places)} holds no {file}, expected a cascade")
    # Networks come with all their variants here: whoever has published a cascade has chosen one.
    names = [file, SCHEDULER, *parts(folder)]
    patterns = [pattern for name in names for pattern in ((inner / name).as_posix(), (inner / name / "*").as_posix())]
    return _snapshot(source, id["repo"], patterns, places) / inner


def fetch(source: str, folders: Sequence[str], files: Sequence[Sequence[str]]) -> Path:
    """Fetches one network of a repository; returns its folder in the hub's local cache.

    Only that network's config, its best file of weights and the pipeline's scheduler are fetched.

    Args:
        folders: the folders of the repository where the network may be, best first, unless the id names the folder.
        files: names of its weights, as `weight_names` gives them.

    Raises:
        InputError: the hub cannot be reached and the files are not in the cache, or the repository has none that fit.
            The message says what to do.
    """
    parts = _HUB_ID.fullmatch(source)
    if parts is None or ".." in source:
        raise InputError(f"{source}: expected a hub id, `owner/name` or `owner/name:folder`")
    places = [parts["folder"].strip("/")] if parts["folder"] else [*folders, ""]
    for group in files:
        patterns = [str(Path(folder, name)) for folder in places for name in ("config.json", *group)]
        patterns += [str(Path(folder).parent / SCHEDULER) for folder in places]
        root = _snapshot(source, parts["repo"], patterns, places)
        for folder in places:
            if find_weights(root / folder, [group]):
                return root / folder
    raise InputError(
        f"{source}: {_places(places)} has no weights of a {folders[0]}, such as {files[0][0]}; "
        f"if the hub was not reached just now, download them on a connected machine and give that folder instead"
    )


def _snapshot(source: str, repo: str, patterns: list[str], places: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except hub_errors() as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{source}: not a local file or folder, and {_places(places)} cannot be fetched from the hub ({reason}); "
            f"download it on a connected machine and give that folder instead"
        ) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """The errors of huggingface_hub for no network, no such repository and no permission.

    Since its version 1 it leaves some errors of httpx as they are, since version 2 of httpx2.
    """
    clients = filter(None, map(sys.modules.get, ("httpx", "httpx2")))
    return OSError, ValueError, *(client.HTTPError for client in clients)


def files_of(path: Path) -> list[str]:
    """The files of a part that is named by one of them: an ncnn network has its numbers in a second one."""
    return [path.as_posix(), *([path.with_suffix(".bin").as_posix()] if path.suffix == ".param" else [])]


def _places(places: list[str]) -> str:
    return " or ".join(f"its folder {folder}" if folder else "the repository itself" for folder in places)
