"""Which pictures of several folders belong together: those with the same name, whatever their suffixes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cassr_jax.data.sources import picture_files, read_rgb
from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import size_text


@dataclass(frozen=True)
class Case:
    """The files of one picture: its truth, its LR version if a cascade is to restore it, and ready results."""

    name: str
    hr: Path
    lr: Path | None
    results: Mapping[str, Path]  # program -> its picture
    prompt: str | None = None  # None is the cascade's own


@dataclass(frozen=True)
class Pictures:
    """The pictures of a case, uint8 (H, W, 3): results have the truth's size, and `lr` is smaller by a whole factor."""

    hr: np.ndarray
    lr: np.ndarray | None
    results: Mapping[str, np.ndarray]

    @property
    def scale(self) -> int:
        return 1 if self.lr is None else self.hr.shape[0] // self.lr.shape[0]


def find_cases(hr: Path, lr: Path | None, results: Mapping[str, Path]) -> tuple[list[Case], dict[str, str]]:
    """Pair the pictures of several folders by name.

    Returns:
        The cases of the names that are in every folder, sorted; and for each other name, which folders it is not in.

    Raises:
        InputError: a folder is missing, or holds no picture or two of the same name, or no name is in all folders.
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
        raise InputError(
            f"no picture's name is in all of {listed}, expected the same names in each; suffixes may differ"
        )
    return cases, {name: f"not in {', '.join(titles)}" for name, titles in missing.items() if titles}


def read_case(case: Case) -> Pictures:
    """Read the pictures of a case.

    Raises:
        InputError: a picture cannot be read, or the sizes do not fit.
    """
    hr = read_rgb(case.hr)
    lr = None if case.lr is None else read_rgb(case.lr)
    results = {title: read_rgb(path) for title, path in case.results.items()}
    for title, picture in results.items():
        if picture.shape != hr.shape:
            raise InputError(f"{case.results[title]}: {size_text(picture)}, expected {size_text(hr)} like {case.hr}")
    if lr is not None:
        scale = hr.shape[0] // lr.shape[0]
        if not scale or hr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
            raise InputError(f"{case.hr}: {size_text(hr)}, expected a multiple of the {size_text(lr)} of {case.lr}")
    return Pictures(hr, lr, results)


def by_name(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Make a mapping from (name, file) pairs.

    Raises:
        InputError: two files have the same name.
    """
    found: dict[str, Path] = {}
    for name, file in files:
        if name in found:
            raise InputError(
                f"{file}: has the same name as {found[name].name}, {name}; expected one picture for each name"
            )
        found[name] = file
    return found


def by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder and its subfolders, by their paths relative to the folder, without suffixes.

    Raises:
        InputError: the folder is missing, or holds no picture or two of the same name.
    """
    return by_name((Path(key).with_suffix("").as_posix(), folder / key) for key in picture_files(folder))
