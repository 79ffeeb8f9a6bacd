"""Folders in a bucket, such as gs://bucket/run: a lease in place of a lock, and a copy of their files on this machine.

An object store has whole objects alone: it writes an object at once or not at all, and has no rename, no append and no
locks. So the programs write their files into a folder of this machine, and each file that has changed is copied whole.
Data are copied to this machine too before they are read, since training reads them in any order.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias, Union

from cassr_jax.compiled import cache_folder
from cassr_jax.errors import InputError
from cassr_jax.files import check_local, exists, files_below, is_file, is_folder, replaced
from cassr_jax.locks import NAME, Owner, in_use, taking_turns
from cassr_jax.printing import complain, progress_bar

if TYPE_CHECKING:
    from etils import epath

Folder: TypeAlias = Union[Path, "epath.Path"]
"""A folder of this machine, or one in a bucket."""

SCHEME = "gs://"
LEASE = 60.0  # s after which an owner that has not renewed its lease has ended
_RENEWALS = 4  # in one lease
_AT_ONCE = 16  # objects that are copied at the same time
_PIECE = 1 << 24  # bytes


def folder_at(path: str | os.PathLike[str], what: str = "it") -> Folder:
    """The folder that a text names; `what` names it in errors.

    Raises:
        InputError: it is empty, an address of another kind, or the package that reaches buckets is not installed.
    """
    text = os.fspath(path)
    if not text.startswith(SCHEME):
        check_local(text, what)
        return Path(text)
    import fsspec
    from etils import epath
    from fsspec.config import conf

    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as error:
        raise InputError(f'{text}: a bucket, expected gcsfs to be installed (pip install -e ".[bucket]")') from error
    if not text.removeprefix(SCHEME).partition("/")[0]:
        raise InputError(f"{text}: names no bucket, expected {SCHEME}BUCKET/FOLDER")
    # What other hosts and other clients write is seen at once: by default gcsfs remembers its last look.
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it warns of kinds of buckets that it may not ask for
    return epath.Path(text)


def in_bucket(folder: PurePath) -> bool:
    """Whether the folder is in a bucket and not on this machine."""
    return os.fspath(folder).startswith(SCHEME)


def move(folder: Folder, target: Folder) -> None:
    """Give a folder another name; in a bucket, every object is copied and then removed."""
    if not in_bucket(folder):
        folder.rename(target)
        return
    import fsspec

    store = fsspec.filesystem("gcs")
    store.copy(os.fspath(folder), os.fspath(target), recursive=True)
    store.rm(os.fspath(folder), recursive=True)


@contextmanager
def reaching(folder: Folder, what: str = "cannot be written") -> Iterator[None]:
    """A block that asks a bucket; whatever goes wrong there becomes one InputError.

    Its libraries raise errors of many kinds, from the network, the credentials and the store.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{folder}: {what} ({' '.join(str(error).split())[:300] or type(error).__name__})") from error


@contextmanager
def leased(folder: Folder, program: str) -> Iterator[None]:
    """Makes this process the owner of a folder in a bucket until the block ends.

    The file `.lock` names the owner, who writes it anew several times in each `LEASE`. A run that was killed leaves it
    behind, so a file that is found is looked at twice, a lease apart: if it has changed, its owner lives. A process
    that finds another one's name in its own file ends at once, since both would write into the folder.

    Raises:
        InputError: another process, which the message names, owns the folder, or it cannot be written.
    """
    file, owner = folder / NAME, Owner.this(program)
    with reaching(folder):
        if (found := _content(file)) is not None:
            time.sleep(LEASE)
            if (later := _content(file)) is not None and later != found:
                raise InputError(f"{folder}: {in_use(_named(later))}")
        _renew(file, owner, 0)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(file, owner, ended, program), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        with said(f"{file} cannot be removed; the next run waits {LEASE:.0f} s for it"):
            file.unlink(missing_ok=True)


def _keep(file: Folder, owner: Owner, ended: threading.Event, program: str) -> None:
    """Renews a lease until the event is set, or ends the process once it has been lost."""
    number = 0
    while not ended.wait(LEASE / _RENEWALS):
        number += 1
        with said(f"the lease on {file.parent} cannot be renewed"):
            found = _content(file)
            if found is not None and _named(found) != str(owner):
                complain(f"{file.parent}: taken over by {_named(found)}, which saw no sign of life here", program)
                os._exit(2)
            _renew(file, owner, number)


def _renew(file: Folder, owner: Owner, number: int) -> None:
    file.write_text(f"{owner}\n{number}\n")


def _content(file: Folder) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _named(content: str) -> str:
    return content.partition("\n")[0]


@contextmanager
def said(what: str) -> Iterator[None]:
    """A block in which a bucket may fail: that is said, and nothing else comes of it."""
    try:
        with reaching(Path(), ""):
            yield
    except InputError as error:
        complain(f"warning: {what} {error.__cause__}")


class Copied:
    """A folder of this machine whose files are copied to a folder in a bucket.

    Attributes:
        local: the folder of this machine, which is new and empty.
        remote: the folder in the bucket.
    """

    def __init__(self, remote: Folder):
        self.local = Path(tempfile.mkdtemp(prefix="cassr-jax-"))
        self.remote = remote
        self._sent: dict[Path, tuple[int, int]] = {}

    def fetch(self, *names: str) -> None:
        """Copy these files from the bucket, as far as they are there.

        Raises:
            InputError: one cannot be read.
        """
        for name in names:
            with reaching(self.remote / name, "cannot be read"), suppress(FileNotFoundError):
                (self.local / name).write_bytes((self.remote / name).read_bytes())
                self._sent[self.local / name] = _state(self.local / name)

    def send(self, wanted: Callable[[Path], bool] = lambda path: True, last: Sequence[str] = ()) -> None:
        """Copy the files that have changed to the bucket.

        Args:
            wanted: whether to send a file, by its path within the folder.
            last: names of files that describe the others. They are removed before the first of the others is replaced,
                and sent after them, so that whoever is interrupted leaves a folder that is refused.

        Raises:
            InputError: a file cannot be written.
        """
        files = {path: path.relative_to(self.local) for path in files_below(self.local)}
        changed = [path for path, name in files.items() if wanted(name) and self._sent.get(path) != _state(path)]
        changed.sort(key=lambda path: files[path].name in last)
        for name in last:
            with reaching(self.remote / name, "cannot be replaced"):
                (self.remote / name).unlink(missing_ok=True)
        for path in changed:
            there, state = self.remote / files[path].as_posix(), _state(path)
            with reaching(there), path.open("rb") as source, there.open("wb") as target:
                shutil.copyfileobj(source, target, _PIECE)  # pyright: ignore[reportArgumentType]
            self._sent[path] = state

    def close(self) -> None:
        """Remove the folder of this machine."""
        shutil.rmtree(self.local, ignore_errors=True)


@cache
def fetched(address: str) -> Path:
    """A folder of this machine with the files of a folder in a bucket, below `cache_folder()`.

    It is another folder once the bucket's has changed, so a run that reads the first keeps it; what is the same in both
    is copied once. Each process asks once. Hidden files are left out. Whoever is interrupted goes on where it was.

    Raises:
        InputError: there is no such folder or it cannot be read, an object's name is no path below it, or there is no
            room for it here.
    """
    import fsspec

    remote = folder_at(address)
    store, root = fsspec.filesystem("gcs"), os.fspath(remote).removeprefix(SCHEME).rstrip("/")
    with reaching(remote, "cannot be read"):
        folder = cache_folder() / "fetched" / _digest(root)
        found = store.find(root, detail=True)
        objects = {name.removeprefix(f"{root}/"): (int(x["size"]), str(x["generation"])) for name, x in found.items()}
    if root in objects:
        raise InputError(f"{address}: an object, expected a folder of data")
    there = {name: about for name, about in objects.items() if _is_below(name, address)}
    if not there:
        raise InputError(f"{address}: holds nothing, expected a folder of data")
    kept = {name: folder / "objects" / _digest(f"{name} {about}") for name, about in there.items()}
    with taking_turns(folder):
        for left in (folder / "objects").glob(".*.tmp"):  # by whoever was killed
            left.unlink()
        wanted = [name for name, path in kept.items() if not _is_whole(path, there[name][0])]
        _check_room(folder, address, sum(there[name][0] for name in wanted))

        def copy(name: str) -> None:
            with (
                reaching(remote / name, "cannot be read"),
                store.open(f"{root}/{name}", "rb") as source,
                replaced(kept[name]) as target,
            ):
                shutil.copyfileobj(source, target, _PIECE)
                if target.tell() != there[name][0]:
                    raise InputError(f"{remote / name}: has changed while it was copied, expected another start")

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(progress_bar(threads.map(copy, wanted), total=len(wanted), desc=f"copying {address}", unit="file"))
        local = folder / _digest(str(sorted(there.items()))) / PurePosixPath(root).name
        for name, path in kept.items():
            _link(path, local / name, address)
    return local


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]


def _is_whole(path: Path, size: int) -> bool:
    return is_file(path) and path.stat().st_size == size


def _link(path: Path, name: Path, address: str) -> None:
    """Gives a file another name, unless it has it; a file system without links has a copy."""
    if exists(name) and os.path.samefile(path, name):
        return
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.unlink(missing_ok=True)
        try:
            os.link(path, name)
        except OSError:
            shutil.copyfile(path, name)
    except OSError as error:
        raise InputError(f"{address}: {name} cannot be written ({error.strerror or error})") from error


def _is_below(name: str, address: str) -> bool:
    """Whether an object's name is that of a visible file; one that would lead out of the folder is refused."""
    parts = name.split("/")
    if ".." in parts or "" in parts[:-1]:
        raise InputError(f"{address}: holds the object {name!r}, expected names that are paths below it")
    return not any(part.startswith(".") for part in parts) and parts[-1] != ""


def _check_room(folder: Path, address: str, needed: int) -> None:
    above = next(path for path in folder.parents if is_folder(path))
    if needed > (free := shutil.disk_usage(above).free):
        raise InputError(
            f"{address}: {needed / 1e6:,.1f} MB are to be copied to {folder}, which has room for {free / 1e6:,.1f} MB; "
            "XDG_CACHE_HOME names another place"
        )


def _state(file: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns
