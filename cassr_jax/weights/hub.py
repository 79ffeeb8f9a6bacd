"""Weights by hub id: `owner/name` or `owner/name:folder`, through huggingface_hub and its cache."""

import re
from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.weights.files import find_weights
from cassr_jax.weights.registry import COMPONENTS

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<folder>[\w./-]+))?")


def is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None


def fetch(source: str, kind: str) -> Path:
    """The folder, in the hub's local cache, of one network of a repository.

    Only that network's config and one file of weights are fetched, in the order of preference of a local folder.

    Raises:
        InputError: the hub cannot be reached and the files are not in the cache, or the repository has none that fit.
            It says what to do.
    """
    parts = _HUB_ID.fullmatch(source)
    if parts is None or ".." in source:
        raise InputError(f"{source}: expected a hub id, `owner/name` or `owner/name:folder`")
    component = COMPONENTS[kind]
    folders = [parts["folder"].strip("/")] if parts["folder"] else [*component.folders, ""]
    for group in component.files:
        patterns = [str(Path(folder, name)) for folder in folders for name in ("config.json", *group)]
        root = _snapshot(source, parts["repo"], patterns, folders)
        for folder in folders:
            if find_weights(root / folder, [group]):
                return root / folder
    raise InputError(
        f"{source}: {_places(folders)} has no weights of a {kind}, such as {component.file}; "
        f"if the hub was not reached just now, download them on a connected machine and give that folder instead"
    )


def _snapshot(source: str, repo: str, patterns: list[str], folders: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # the hub's errors for no network, no such repository, no permission
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{source}: not a local file or folder, and {_places(folders)} cannot be fetched from the hub ({reason}); "
            f"download it on a connected machine and give that folder instead"
        ) from error


def _places(folders: list[str]) -> str:
    return " or ".join(f"its folder {folder}" if folder else "the repository itself" for folder in folders)
