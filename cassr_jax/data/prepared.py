"""Records made beforehand: what training would otherwise compute again in every epoch, in ArrayRecord files.

A record is a mapping of names to arrays (`lr` and `reference` uint8 images, `latents` of the target), packed with
msgpack. Nothing in it is code, and any record can be read on its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from flax import serialization

from cassr_jax.errors import InputError

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
    return sorted(Path(folder).glob(f"*{SUFFIX}"))


class PreparedSource(Sequence[dict[str, np.ndarray]]):
    """All records of a folder's files, in the order of their names; random access, safe in worker processes.

    Raises InputError when the folder holds no such file.
    """

    def __init__(self, folder: str | Path):
        self.files = record_files(Path(folder))
        if not self.files:
            raise InputError(f"{folder}: holds no *{SUFFIX} file")
        self._source = ArrayRecordDataSource([str(file) for file in self.files])

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return serialization.msgpack_restore(self._source[index])
