"""Records made beforehand: what training would otherwise compute again in every epoch, in ArrayRecord files.

A record is a mapping of names to arrays (`lr`, `hr` and `reference` uint8 images, `latents` and `latents_std` of the
target), packed with msgpack. Nothing in it is code, and any record can be read on its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from flax import serialization

from cassr_jax.data.sources import find_part
from cassr_jax.errors import InputError
from cassr_jax.files import files_below

Record = Mapping[str, np.ndarray]
SUFFIX = ".array_record"


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write one file of records; it has its name only when it is complete. Returns how many there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    writer = ArrayRecordWriter(str(unfinished), "group_size:1,zstd:1")
    count = 0
    try:
        for record in records:
            writer.write(serialization.msgpack_serialize({name: np.asarray(value) for name, value in record.items()}))
            count += 1
    finally:
        writer.close()
    unfinished.rename(path)
    return count


def record_files(folder: Path) -> list[Path]:
    """The files of a folder and its subfolders, by name: sets made apart from each other are one set together.

    Links to folders are followed. No file where there is no such folder.

    Raises:
        InputError: a folder cannot be read.
    """
    return sorted(path for path in files_below(folder) if path.suffix == SUFFIX) if folder.is_dir() else []


def count_records(path: Path) -> int:
    """How many records a file holds.

    Raises:
        InputError: the file is empty, cut short or damaged.
    """
    return len(_open(path))


class PreparedSource(Sequence[dict[str, np.ndarray]]):
    """All records of a folder's files, in the order of their names; random access, safe in worker processes.

    Raises InputError when the folder holds no such file or a file is cut short, and, on access, when a record is
    damaged; every record carries a checksum.
    """

    def __init__(self, folder: str | Path):
        self.files = record_files(Path(folder))
        if not self.files:
            raise InputError(f"{folder}: holds no *{SUFFIX} file")
        # One source a file, so that a damaged record is traced to its file.
        self._sources = [_open(file) for file in self.files]
        self._bounds = list(accumulate(map(len, self._sources), initial=0))

    def __len__(self) -> int:
        return self._bounds[-1]

    def __getitem__(self, index: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        file, position = find_part(self._bounds, index)
        try:
            return serialization.msgpack_restore(self._sources[file][position])
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{self.files[file]}: record {position} is damaged ({error}); make the file anew"
            ) from error


def _open(path: Path) -> ArrayRecordDataSource:
    try:
        return ArrayRecordDataSource([str(path)])  # reads the index at the file's end
    except RuntimeError as error:
        reason = str(error) or "cut short"
        raise InputError(f"{path}: not a complete ArrayRecord file ({reason}); make it anew") from error
