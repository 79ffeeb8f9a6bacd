"""What a repository of the hub holds, and its transfer to huggingface_hub's local cache, with one progress bar."""

import errno
import posixpath
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cassr_jax.errors import InputError
from cassr_jax.files import exists, is_file
from cassr_jax.printing import progress_bar

_PATIENCE = 10.0  # seconds for the hub to say what it holds
_OF_THE_DISK = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT, errno.EEXIST}
_TICK = 0.5  # seconds between two looks at what has come


class Contents(NamedTuple):
    """The files of a repository: all that the hub has, or those of its local cache if the hub cannot be asked.

    Attributes:
        sizes: name -> bytes.
        commit: the commit that has them; empty if the hub was not asked.
        reason: why the hub was not asked, or did not tell; empty if it did.
        folder: where the local cache has them, if the hub was not asked.
        advice: what to do if a part is not there, if the hub was not asked.
    """

    sizes: Mapping[str, int]
    commit: str = ""
    reason: str = ""
    folder: Path | None = None
    advice: str = "download it on a connected machine and give that folder instead"

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


def reason_of(error: BaseException) -> str:
    """What a hub's error says, in a few words."""
    if _refused(error):
        return "no such repository there, or a private one"
    if type(error).__name__ == "LocalEntryNotFoundError" and error.__cause__ is not None:
        error = error.__cause__  # which says why, where the other says that something went wrong
    text = str(error).strip() or str(error.__cause__ or "").strip() or type(error).__name__
    return text.split("\n")[0]


def _refused(error: BaseException) -> bool:
    """Whether the hub was reached and knows no such repository, at least for this user."""
    return type(error).__name__ in ("RepositoryNotFoundError", "GatedRepoError")


def contents_of(repository: str) -> Contents:
    """What a repository of the hub holds, or what the local cache has of it if the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, files_metadata=True, timeout=_PATIENCE)
        return Contents({file.rfilename: file.size or 0 for file in info.siblings or ()}, str(info.sha))
    except hub_errors() as error:
        found = Contents({}, reason=reason_of(error))
        if _refused(error):
            found = found._replace(advice="check the name, or log in with `hf auth login`")
    # By the documented layout of the cache: huggingface_hub's versions disagree about a snapshot that is not whole.
    try:
        commit = (_cache(repository) / "refs" / "main").read_text().strip()
    except OSError:
        return found
    folder = _cache(repository) / "snapshots" / commit
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if is_file(path)}
    return found._replace(sizes={name: path.stat().st_size for name, path in files.items()}, folder=folder)


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
    absent = {repository: _absent(repository, files, contents[repository]) for repository, files in wanted.items()}
    with _one_bar({name: sum(sizes.values()) for name, sizes in absent.items() if sizes}):
        for repository, sizes in absent.items():
            _fetch(repository, contents[repository].commit, list(sizes))
    return {name: contents[name].folder or _cache(name) / "snapshots" / contents[name].commit for name in wanted}


def _absent(repository: str, wanted: set[str], contents: Contents) -> dict[str, int]:
    """The sizes of those of the wanted files that have to be fetched: all that are not there whole."""
    if contents.reason:
        return {}
    folder = _cache(repository) / "snapshots" / contents.commit
    return {
        name: contents.sizes[name]
        for name in sorted(wanted)
        if not is_file(folder / name) or (folder / name).stat().st_size != contents.sizes[name]
    }


def _fetch(repository: str, commit: str, files: list[str]) -> None:
    """Fetches files of a commit into the local cache, which then knows it as the newest.

    They come one after the other: whoever presses Ctrl-C would have to wait for the threads of a `snapshot_download`.
    """
    from huggingface_hub import hf_hub_download

    try:
        for name in files:
            place = _cache(repository) / "snapshots" / commit / name
            damaged = is_file(place)  # since it is to be fetched
            hf_hub_download(repository, name, revision=commit, force_download=damaged)
        if files:
            newest = _cache(repository) / "refs" / "main"
            newest.parent.mkdir(parents=True, exist_ok=True)
            newest.write_text(commit)
    except hub_errors() as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise InputError(
                f"{repository}: cannot be fetched into {_cache(repository).parent} ({error.strerror}), expected a "
                "folder that can be written; HF_HOME names another"
            ) from error
        raise InputError(
            f"{repository}: cannot be fetched from the hub ({reason_of(error)}); what has come is kept, and the same "
            "command fetches the rest"
        ) from error


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
