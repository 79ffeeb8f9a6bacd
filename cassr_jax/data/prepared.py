"""Prepared records: ArrayRecord files of what training would otherwise compute again in every epoch.

A record is a mapping from names to arrays (`lr`, `hr` and `reference` are uint8 images, `latents` and `latents_std`
belong to the target), packed with msgpack. It contains no code, and every record can be read on its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import cast

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from flax import serialization

from cassr_jax.data.sources import find_part, find_set, only_one_kind
from cassr_jax.errors import InputError
from cassr_jax.files import files_below, is_folder
from cassr_jax.imaging.inputs import READABLE_SUFFIXES

Record = Mapping[str, np.ndarray]
SUFFIX = ".array_record"


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write a file of records, which gets its name only when it is complete; return the number of records.

    Raises:
        InputError: the folder or file cannot be written.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = ArrayRecordWriter(str(unfinished), "group_size:1,zstd:1")
    count = 0
    try:
        for record in records:
            packed = serialization.msgpack_serialize({name: np.asarray(value) for name, value in record.items()})
            with _writing(path):
                writer.write(packed)
            count += 1
    finally:
        with _writing(path):
            writer.close()
    with _writing(path):
        unfinished.rename(path)
    return count


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A block that does nothing but write `path`; its errors become one InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).split(";")[0]
        raise InputError(f"{path}: cannot be written ({reason})") from error


def record_files(folder: Path) -> list[Path]:
    """The files of records in a folder and its subfolders, sorted; none if there is no such folder.

    Links to folders are followed. So sets that were made separately can be used together as one set.

    Raises:
        InputError: a folder cannot be read, or pictures or a built set lie beside the records and would be passed over.
    """
    files = sorted(files_below(folder)) if is_folder(folder) else []
    records = [path for path in files if path.suffix == SUFFIX]
    if not records:
        return []
    found = f"prepared records ({records[0]})"
    if (built := find_set(folder)) is not None:
        raise only_one_kind(folder, found, f"a built set ({built})")
    pictures = (path for path in files if path.suffix.lower() in READABLE_SUFFIXES)
    if (picture := next(pictures, None)) is not None:
        raise only_one_kind(folder, found, f"pictures ({picture})")
    return records


def count_records(path: Path) -> int:
    """The number of records in a file.

    Raises:
        InputError: the file is empty, cut short or damaged.
    """
    return len(_open(path))


class PreparedSource(Sequence[dict[str, np.ndarray]]):
    """Random access to all records of a folder, in the order of the files' names; safe in worker processes.

    Raises:
        InputError: the folder holds no file of records, or a file is cut short; on access, if a record is damaged,
            which its checksum tells.
    """

    def __init__(self, folder: str | Path):
        self.files = record_files(Path(folder))
        if not self.files:
            raise InputError(f"{folder}: holds no *{SUFFIX} file, expected prepared records")
        # Each file has a source of its own, so that an error can name the file of a damaged record.
        self._sources = [_open(file) for file in self.files]
        self._bounds = list(accumulate(map(len, self._sources), initial=0))

    def __len__(self) -> int:
        return self._bounds[-1]

    def firsts(self) -> dict[Path, int]:
        """The folders that hold records, and the number of the first record of each."""
        found: dict[Path, int] = {}
        for file, (first, end) in zip(self.files, pairwise(self._bounds), strict=True):
            if first < end:
                found.setdefault(file.parent, first)
        return found

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:  # pyright: ignore[reportIncompatibleMethodOverride]
        file, position = find_part(self._bounds, index)
        try:
            return cast(dict[str, np.ndarray], serialization.msgpack_restore(self._sources[file][position]))
        except (RuntimeError, TypeError, ValueError) as error:  # of the file, of msgpack, and of NumPy
            raise InputError(
                f"{self.files[file]}: record {position} is damaged ({error}); make the file again"
            ) from error


def check_alike(sources: Iterable[PreparedSource]) -> None:
    """Checks that records of all these folders, and of those that links lead to, can stand in one batch.

    A folder's records were made together, so the first stands for the others.

    Raises:
        InputError: those of two folders have other entries, or entries of other shapes; the message names both folders.
    """
    alike: tuple[Path, dict[str, tuple[int, ...]]] | None = None
    for source in sources:
        for folder, index in source.firsts().items():
            try:
                shapes = {name: np.shape(value) for name, value in source[index].items()}
            except InputError:  # a damaged record is named and left out where it is met
                continue
            if alike is None:
                alike = folder, shapes
            elif shapes != alike[1]:
                raise InputError(
                    f"{folder}: its records hold {_described(shapes)}, expected {_described(alike[1])} like those of "
                    f"{alike[0]}: a batch holds records of both"
                )


def _described(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _open(path: Path) -> ArrayRecordDataSource:
    try:
        return ArrayRecordDataSource([str(path)])  # reads the index at the file's end
    except RuntimeError as error:
        reason = str(error) or "cut short"
        raise InputError(f"{path}: not a complete ArrayRecord file ({reason}); make it again") from error
