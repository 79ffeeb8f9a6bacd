"""Weights by hub id: `owner/name` or `owner/name:folder`, through huggingface_hub and its cache."""

import re
from collections.abc import Sequence
from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.weights.files import find_weights

PIPELINE = "model_index.json"  # marks the folder of a whole pipeline
SCHEDULER = "scheduler/scheduler_config.json"  # describes the noise on which a pipeline's U-Net was trained

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<folder>[\w./-]+))?")


def is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None


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
    except (OSError, ValueError) as error:  # the hub's errors for no network, no such repository, no permission
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{source}: not a local file or folder, and {_places(places)} cannot be fetched from the hub ({reason}); "
            f"download it on a connected machine and give that folder instead"
        ) from error


def _places(places: list[str]) -> str:
    return " or ".join(f"its folder {folder}" if folder else "the repository itself" for folder in places)
