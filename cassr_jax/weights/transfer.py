"""What a repository of the hub holds, and its transfer to huggingface_hub's local cache, with one progress bar."""

import posixpath
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import NamedTuple

from cassr_jax.errors import InputError
from cassr_jax.files import exists, is_file
from cassr_jax.printing import progress_bar

_PATIENCE = 10.0  # seconds for the hub to say what it holds
_TICK = 0.5  # seconds between two looks at what has come


class Contents(NamedTuple):
    """The files of a repository: all that the hub has, or those of its local cache if the hub cannot be asked.

    Attributes:
        sizes: name -> bytes.
        commit: the commit that has them; empty if the hub was not asked.
        reason: why the hub was not asked; empty if it was.
        folder: where the local cache has them, if the hub was not asked.
    """

    sizes: Mapping[str, int]
    commit: str = ""
    reason: str = ""
    folder: Path | None = None

    def below(self, name: str) -> set[str]:
        """The file of that name, or the files in the folder of that name."""
        name = posixpath.normpath(name)
        return {file for file in self.sizes if name in (".", file) or file.startswith(f"{name}/")}


def hub_errors() -> tuple[type[Exception], ...]:
    """The errors of huggingface_hub for no network, no such repository and no permission.

    Since its version 1 it leaves some errors of httpx as they are, since version 2 of httpx2. A transfer that fails in
    the middle is a RuntimeError.
    """
    clients = filter(None, map(sys.modules.get, ("httpx", "httpx2")))
    return OSError, ValueError, RuntimeError, *(client.HTTPError for client in clients)


def reason_of(error: Exception) -> str:
    """The first line of what a hub's error says, or its cause where it says nothing."""
    text = str(error).strip() or str(error.__cause__ or "").strip() or type(error).__name__
    return text.split("\n")[0]


def contents_of(repository: str) -> Contents:
    """What a repository of the hub holds, or what the local cache has of it if the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, files_metadata=True, timeout=_PATIENCE)
        return Contents({file.rfilename: file.size or 0 for file in info.siblings or ()}, str(info.sha))
    except hub_errors() as error:
        reason = reason_of(error)
    # By the documented layout of the cache: huggingface_hub's versions disagree about a snapshot that is not whole.
    try:
        commit = (_cache(repository) / "refs" / "main").read_text().strip()
    except OSError:
        return Contents({}, reason=reason)
    folder = _cache(repository) / "snapshots" / commit
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if is_file(path)}
    return Contents({name: path.stat().st_size for name, path in files.items()}, reason=reason, folder=folder)


def _cache(repository: str) -> Path:
    """The folder that the local cache has for a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")


def download(wanted: Mapping[str, set[str]], contents: Mapping[str, Contents]) -> dict[str, Path]:
    """Fetches files of repositories; returns the snapshot of each in the local cache, which then holds them.

    Args:
        wanted: repository -> the names of files that are among its `contents`.

    Raises:
        InputError: a transfer fails, or the disk has no room.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    def lacks(repository: str) -> dict[str, int]:
        """The sizes of the files that have to be fetched."""
        own = contents[repository]
        if own.reason:
            return {}
        held = {name: try_to_load_from_cache(repository, name, revision=own.commit) for name in wanted[repository]}
        return {name: own.sizes[name] for name, place in held.items() if not isinstance(place, str)}

    absent = {repository: lacks(repository) for repository in wanted}
    folders = {}
    with _one_bar({name: sum(sizes.values()) for name, sizes in absent.items() if sizes}):
        for repository, files in wanted.items():
            own = contents[repository]
            if own.folder is not None:
                folders[repository] = own.folder
                continue
            whole = {"local_files_only": True, "revision": own.commit} if not absent[repository] else {}
            try:
                folder = snapshot_download(repository, allow_patterns=[*map(escape, sorted(files))], **whole)
            except hub_errors() as error:
                raise InputError(
                    f"{repository}: cannot be fetched from the hub ({reason_of(error)}); what has come is kept, and "
                    "the same command fetches the rest"
                ) from error
            folders[repository] = Path(folder)
            if gone := sorted(name for name in files if not is_file(folders[repository] / name)):
                raise InputError(f"{repository}: the hub no longer has {gone[0]}, expected it there; try again")
    return folders


@contextmanager
def _one_bar(sizes: Mapping[str, int]) -> Iterator[None]:
    """A block that fetches so many bytes of each repository, with one bar in place of huggingface_hub's own ones.

    Raises:
        InputError: the disk has no room for them.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if not sizes:
        yield
        return
    cache, total = Path(constants.HF_HUB_CACHE), sum(sizes.values())
    place = next(path for path in (cache.absolute(), *cache.absolute().parents) if exists(path))
    if (free := shutil.disk_usage(place).free) < total:
        raise InputError(
            f"{', '.join(sizes)}: {total / 1e9:.2f} GB are to be fetched, and {place} has {free / 1e9:.2f} GB left, "
            "expected room; HF_HOME names another place"
        )
    folders = [_cache(name) / "blobs" for name in sizes]

    def held() -> int:
        return sum(map(_size, (file for folder in folders if exists(folder) for file in folder.iterdir())))

    unwanted = are_progress_bars_disabled()
    before, done = held(), threading.Event()
    with progress_bar(total=total, unit="B", unit_scale=True, desc="fetching weights", disable=unwanted or None) as bar:

        def watch() -> None:
            while not done.wait(_TICK):
                bar.n = min(held() - before, total)
                bar.refresh()

        watcher = threading.Thread(target=watch, daemon=True)
        if not unwanted:
            disable_progress_bars()
        if not bar.disable:
            watcher.start()
        try:
            yield
            bar.n = total
        finally:
            done.set()
            if watcher.is_alive():
                watcher.join()
            if not unwanted:
                enable_progress_bars()


def _size(file: Path) -> int:
    """The size of a file, which another process or thread may have renamed meanwhile."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
