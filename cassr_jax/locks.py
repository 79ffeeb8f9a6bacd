"""One owner for a folder that several programs may be told to write into."""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from cassr_jax.errors import InputError
from cassr_jax.files import check_local, read_json

NAME = ".lock"
# What file systems say that have no locks between hosts.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Owner:
    """Who writes into a folder.

    Attributes:
        program: its name, as a person starts it.
        process: its number on `host`.
        host: the machine's name.
        started: when it took the folder, in UTC.
    """

    program: str
    process: int
    host: str
    started: str

    @classmethod
    def this(cls, program: str) -> "Owner":
        return cls(program, os.getpid(), socket.gethostname(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))

    def __str__(self) -> str:
        return f"{self.program}, process {self.process} on {self.host} since {self.started}"

    def may_live(self) -> bool:
        """False where it is known to have ended: processes of other machines cannot be asked."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it lives, and is somebody else's
            return True
        return True


@contextmanager
def claimed(folder: Path, program: str) -> Iterator[None]:
    """Makes this process the owner of `folder`, which is made, until the block ends.

    The lock is the kernel's, on `folder/.lock`, and ends with the process however that dies. The file says who holds
    it. Where the file system has no locks, what the file says decides alone.

    Raises:
        InputError: another process owns the folder, which the message names, or the folder is an address or cannot be
            written.
    """
    check_local(folder, "the folder")
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, locked = _opened(path, wait=False)
    except BlockingIOError as error:
        raise InputError(f"{folder}: {_in_use(_owner(path))}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    with file:
        before = _owner(path)
        if before is not None and not locked and before.may_live():
            raise InputError(f"{folder}: {_in_use(before)}, or delete {path} if that has ended")
        if before is not None and before.host != socket.gethostname():
            print(f"{folder}: taken over from {before}, which left no lock", file=sys.stderr, flush=True)
        try:
            _sign(file, path, Owner.this(program))
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is locked: whoever waits for it opens a new one


@contextmanager
def taking_turns(path: Path) -> Iterator[None]:
    """Waits until no other process is in such a block for `path`, a file that several of them read and replace.

    Where the file system has no locks, nobody waits.

    Raises:
        InputError: the file that is locked, `.NAME.lock` beside `path`, cannot be written.
    """
    beside = path.with_name(f".{path.name}{NAME}")
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        file, _ = _opened(beside, wait=True)
    except OSError as error:
        raise InputError(f"{beside}: cannot be written ({error.strerror or error})") from error
    with file:
        try:
            yield
        finally:
            beside.unlink(missing_ok=True)


def _opened(path: Path, *, wait: bool) -> tuple[IO[str], bool]:
    """The file, and whether it is locked now: not where the file system has no locks.

    Raises:
        BlockingIOError: another process has locked it, and `wait` is False.
    """
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Whoever had it may have removed the file between our opening and our locking it.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file, True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file, False
            file.close()
            raise
        file.close()


def _sign(file: IO[str], path: Path, owner: Owner) -> None:
    try:
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), json.dumps(asdict(owner)).encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _owner(path: Path) -> Owner | None:
    """Who the file says holds it; None where it says nothing, since it was just made or is damaged."""
    try:
        return Owner(**read_json(path))
    except (InputError, TypeError):
        return None


def _in_use(owner: Owner | None) -> str:
    return f"in use by {owner or 'another process'}; expected a folder that nothing else writes into"
