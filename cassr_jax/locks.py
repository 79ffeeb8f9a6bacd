"""Locks that give a folder one owner, since several programs may be told to write into it."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from cassr_jax.errors import InputError
from cassr_jax.files import Json, check_folder, check_local, read_json
from cassr_jax.printing import complain

NAME = ".lock"
PROC = Path("/proc")  # where Linux tells of its processes
LARGEST_PROCESS = 2**31 - 1
# The errors of file systems that have no locks between hosts.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Owner:
    """The process that writes into a folder.

    Attributes:
        program: the program's name, as a person starts it.
        process: the process's number on `host`.
        host: the machine's name.
        started: when it took the folder, in UTC.
        began: the boot of the machine, and the time from there to the start of the process, which tell it from other
            processes of the same number; None where the system does not say.
    """

    program: str
    process: int
    host: str
    started: str
    began: str | None = None

    @classmethod
    def this(cls, program: str) -> "Owner":
        now, process = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), os.getpid()
        return cls(program, process, socket.gethostname(), now, _began(process))

    @classmethod
    def of(cls, fields: Json) -> "Owner":
        """The owner that a file names.

        Raises:
            ValueError: the fields are not an owner's.
        """
        try:
            owner = cls(**fields)
        except TypeError as error:
            raise ValueError("expected a program, process, host and start") from error
        if type(owner.process) is not int or not 0 < owner.process <= LARGEST_PROCESS:
            raise ValueError(f"expected a process from 1 to {LARGEST_PROCESS}")
        return owner

    def __str__(self) -> str:
        return f"{self.program}, process {self.process} on {self.host} since {self.started}"

    def may_live(self) -> bool:
        """Whether it may still run: False only if it is known to have ended, which other machines cannot tell."""
        if self.host != socket.gethostname():
            return True
        if not _agree(self.began, _began(self.process)):
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it runs, but belongs to another user
            return True
        return True

    def same_process(self, other: "Owner") -> bool:
        """Whether both are the same process, which may own several things."""
        return (self.host, self.process) == (other.host, other.process) and _agree(self.began, other.began)


@contextmanager
def claimed(folder: Path, program: str) -> Iterator[None]:
    """Creates `folder` and makes this process its owner until the block ends.

    The kernel's lock on `folder/.lock` ends with the process, however that dies; the file names its holder. On a file
    system without locks, the file alone decides.

    Raises:
        InputError: another process, which the message names, owns the folder, or the folder is an address or cannot be
            written.
    """
    check_local(folder, "the folder")
    check_folder(folder)
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, locked = _opened(path, wait=False)
    except BlockingIOError as error:
        raise InputError(f"{folder}: {in_use(_owner(path))}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    with file:
        before = _owner(path)
        if before is not None and not locked and before.may_live():
            raise InputError(f"{folder}: {in_use(before)}, or delete {path} if that process has ended")
        if before is not None and before.host != socket.gethostname():
            complain(f"{folder}: taken over from {before}, which left no lock")
        try:
            _sign(file, path, Owner.this(program))
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is still locked: a waiting process opens a new file


@contextmanager
def taking_turns(path: Path) -> Iterator[None]:
    """A block that only one process at a time enters for `path`, a file that several read and replace.

    On a file system without locks, nobody waits.

    Raises:
        InputError: the lock file, `.NAME.lock` beside `path`, cannot be written.
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
    """The open file, and whether it is locked, which a file system without locks prevents.

    Raises:
        BlockingIOError: another process has locked it, and `wait` is False.
    """
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The previous owner may have removed the file after it was opened here and before it was locked.
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
    """The owner that the file names; None if it is new or damaged."""
    try:
        return Owner.of(read_json(path))
    except (InputError, ValueError):
        return None


def _began(process: int) -> str | None:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        # The program's name, in parentheses, may hold anything; the start is the 20th word after it.
        fields = (PROC / str(process) / "stat").read_bytes().rpartition(b")")[2].split()
        return f"{boot} {fields[19].decode()}"
    except (OSError, IndexError):
        return None


def _agree(one: str | None, other: str | None) -> bool:
    """Whether two beginnings may be the same: one that is unknown agrees with all."""
    return one is None or other is None or one == other


def in_use(owner: object) -> str:
    """Why a folder is refused; `owner` is None if it is not known."""
    return f"in use by {owner or 'another process'}; expected a folder that nothing else writes into"
