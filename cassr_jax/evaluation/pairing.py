"""Which pictures of several folders belong together: those of one name, whatever their suffixes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cassr_jax.data.sources import picture_files, read_rgb
from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import size_text


@dataclass(frozen=True)
class Case:
    """One picture: its truth, its low-resolution version where a cascade is to restore it, and ready results."""

    name: str
    hr: Path
    lr: Path | None
    results: Mapping[str, Path]  # program -> its picture


@dataclass(frozen=True)
class Pictures:
    """A case, read: uint8 (H, W, 3), the results of the truth's size, `lr` smaller by a whole factor."""

    hr: np.ndarray
    lr: np.ndarray | None
    results: Mapping[str, np.ndarray]

    @property
    def scale(self) -> int:
        return 1 if self.lr is None else self.hr.shape[0] // self.lr.shape[0]


def find_cases(hr: Path, lr: Path | None, results: Mapping[str, Path]) -> tuple[list[Case], dict[str, str]]:
    """The cases whose names are in every folder, sorted, and of every other name the folders that it is missing from.

    Raises:
        InputError: a folder is missing, holds no picture or two of one name, or no name is in all of them.
    """
    folders = {"hr": hr, **({} if lr is None else {"lr": lr}), **results}
    found = {name: by_stem(folder) for name, folder in folders.items()}
    names = sorted(set().union(*found.values()))
    missing = {name: [title for title in folders if name not in found[title]] for name in names}
    cases = [
        Case(
            name,
            found["hr"][name],
            None if lr is None else found["lr"][name],
            {title: found[title][name] for title in results},
        )
        for name in names
        if not missing[name]
    ]
    if not cases:
        listed = ", ".join(str(folder) for folder in folders.values())
        raise InputError(f"no picture's name is in all of {listed}; expected the same names in each, suffixes apart")
    return cases, {name: f"not in {', '.join(titles)}" for name, titles in missing.items() if titles}


def read_case(case: Case) -> Pictures:
    """
    Raises:
        InputError: a picture cannot be read, or their sizes do not fit.
    """
    hr = read_rgb(case.hr)
    lr = None if case.lr is None else read_rgb(case.lr)
    results = {title: read_rgb(path) for title, path in case.results.items()}
    for title, picture in results.items():
        if picture.shape != hr.shape:
            raise InputError(f"{case.results[title]}: {size_text(picture)}, expected {size_text(hr)} as {case.hr}")
    if lr is not None:
        scale = hr.shape[0] // lr.shape[0]
        if not scale or hr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
            raise InputError(f"{case.hr}: {size_text(hr)}, expected a multiple of {size_text(lr)} of {case.lr}")
    return Pictures(hr, lr, results)


def by_name(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """(name, file) pairs as a mapping.

    Raises:
        InputError: two files have one name.
    """
    found: dict[str, Path] = {}
    for name, file in files:
        if name in found:
            raise InputError(f"{file}: has the same name as {found[name].name}, {name}; expected one picture of a name")
        found[name] = file
    return found


def by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder and of its subfolders, by path below it without suffix.

    Raises:
        InputError: the folder is missing, holds no picture or two of one name.
    """
    return by_name((Path(key).with_suffix("").as_posix(), folder / key) for key in picture_files(folder))
