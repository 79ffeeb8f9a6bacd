"""The folder of a run: on this machine, or in a bucket, for whose files a folder of this machine stands in."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from cassr_jax.buckets import Copied, Folder, in_bucket, said

_GROWING = "tensorboard"  # holds pictures too, so it is not sent as often as what is small


class Home:
    """A folder into which a process writes.

    Attributes:
        folder: the folder as it was named, which may be in a bucket.
        files: where its files are written: the same folder, or one of this machine that stands in for it.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self._copied = Copied(folder) if in_bucket(folder) else None
        self.files = Path(folder) if self._copied is None else self._copied.local

    def fetch(self, *names: str) -> None:
        """Have these files in `files` if they are in the folder.

        Raises:
            InputError: one cannot be read.
        """
        if self._copied is not None:
            self._copied.fetch(*names)

    def send(self, last: Sequence[str] = ()) -> None:
        """Have every file of `files` in the folder; `last` are those that describe the others (`Copied.send`).

        Raises:
            InputError: one cannot be written.
        """
        if self._copied is not None:
            self._copied.send(last=last)

    def send_logs(self, *, growing: bool) -> None:
        """Send what is only to look at, for which no run ends: a warning says what cannot be written.

        Args:
            growing: send the large logs, too.
        """
        if self._copied is not None:
            with said(f"the logs of {self.folder} lag behind:"):
                self._copied.send(lambda name: growing or _first(name) != _GROWING)

    def close(self) -> None:
        if self._copied is not None:
            self.send_logs(growing=True)
            self._copied.close()


def _first(name: PurePath) -> str:
    return name.parts[0]
