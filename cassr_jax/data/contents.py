"""What lies in a set at this moment, as one number: the same path may hold other pictures tomorrow."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from cassr_jax.data.index import Kind, indexed
from cassr_jax.data.prepared import SUFFIX
from cassr_jax.errors import InputError
from cassr_jax.files import files_below, is_folder
from cassr_jax.imaging.inputs import READABLE_SUFFIXES

_FINGERPRINTS = Kind[str](
    "contents", lambda texts: {"texts": np.array(texts)}, lambda arrays: [str(text) for text in arrays["texts"]]
)
_PART = 1 << 20  # bytes at each end of a file that are looked at; a set may be larger than can be read at every start


def fingerprint_sets(paths: Iterable[str | Path]) -> str:
    """16 hexadecimal digits of the sets' pictures and record files: their names, sizes, beginnings and ends.

    Where the sets lie does not enter it. What else lies beside pictures and records does not either. A
    file that has not changed since the last time is not read again.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for folder in map(Path, paths):
        # What is missing altogether is named where it is opened.
        files = sorted(path for path in files_below(folder) if _holds_examples(path)) if is_folder(folder) else []
        keys = [path.relative_to(folder).as_posix() for path in files]
        for key, own in zip(keys, indexed(folder, keys, _FINGERPRINTS, partial(_find, folder)), strict=True):
            digest.update(f"{key}\0{own}\0".encode(errors="surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _holds_examples(path: Path) -> bool:
    return path.suffix.lower() in READABLE_SUFFIXES or SUFFIX in path.name


def _find(folder: Path, keys: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda key: _fingerprint(folder / key), keys))


def _fingerprint(path: Path) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_PART))
            size = file.seek(0, 2)
            file.seek(max(size - _PART, 0))
            digest.update(file.read(_PART))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return f"{size} {digest.hexdigest()}"
