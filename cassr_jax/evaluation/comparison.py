"""Several programs on the same pictures, measured one picture at a time; what is done is kept.

An output folder belongs to one comparison: `settings.json` says which, `values.jsonl` has a line for each picture that
is finished, `pictures/` what the cascade made of it. Started again, it goes on behind the last whole line.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import KINDS, Restore
from cassr_jax.evaluation.measures import Measure, Values, make_measure
from cassr_jax.evaluation.naturalness import niqe, pristine_statistics
from cassr_jax.evaluation.outside import OfPicture
from cassr_jax.evaluation.pairing import Case, read_case
from cassr_jax.files import replaced, write_json
from cassr_jax.imaging import io

SETTINGS, VALUES, PICTURES = "settings.json", "values.jsonl", "pictures"


@dataclass(frozen=True)
class Measured:
    """One picture's values, by program; or why it has none."""

    name: str
    values: Mapping[str, Values]
    left_out: str = ""


def make_measures(outside: Mapping[str, OfPicture]) -> tuple[Measure, dict[str, str]]:
    """Every measure of a picture that is at hand, and of NIQE, if it is not, the reason.

    Raises:
        InputError: LPIPS's or DISTS's weights are not installed.
    """
    learned, missing, alone = make_measure(), {}, dict(outside)
    try:
        statistics = pristine_statistics()
        alone["niqe"] = lambda picture: niqe(picture, statistics)
    except InputError as error:
        missing["niqe"] = str(error)

    def measure(truth: np.ndarray, pictures: Sequence[np.ndarray]) -> list[Values]:
        together = learned(truth, pictures)
        return [
            values | {name: _or_nan(of, picture) for name, of in alone.items()}
            for values, picture in zip(together, pictures, strict=True)
        ]

    return measure, missing


def _or_nan(of: OfPicture, picture: np.ndarray) -> float:
    try:
        return of(picture)
    except InputError:  # too small, or flat: the measure is not defined
        return float("nan")


def open_output(folder: Path, settings: Mapping[str, Any]) -> dict[str, Measured]:
    """What `folder` has of this comparison, by picture.

    Raises:
        InputError: it holds another comparison, or anything that cannot be read as one.
    """
    file = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    if file.is_file():
        try:
            before = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"{file}: not JSON ({error}); expected the settings of a comparison") from error
        if changed := sorted(name for name in before.keys() | settings if before.get(name) != settings.get(name)):
            name = changed[0]
            raise InputError(
                f"{file}: {name} is {_short(before.get(name))}, now {_short(settings.get(name))}; "
                "expected the same, or another --output"
            )
    else:
        write_json(file, settings)
    return {measured.name: measured for measured in _finished(folder / VALUES)}


def _finished(file: Path) -> list[Measured]:
    """What the file's whole lines say; a last one that a kill has cut off is taken out of it."""
    if not file.is_file():
        return []
    whole, newline, rest = file.read_text("utf-8").rpartition("\n")
    if rest:
        with replaced(file) as stream:
            stream.write((whole + newline).encode())
    return [Measured(**json.loads(line)) for line in whole.splitlines()]


def compare(cases: Sequence[Case], restore: Restore | None, measure: Measure, seed: int, folder: Path) -> None:
    """Measure `cases` and append what is found to the output; a case that cannot be read or does not fit says so."""
    with (folder / VALUES).open("a", encoding="utf-8") as stream:
        found = _measure_all(cases, restore, measure, seed, folder)
        for measured in tqdm(found, "measuring", len(cases), unit="picture"):
            stream.write(json.dumps(asdict(measured)) + "\n")
            stream.flush()


def _measure_all(
    cases: Sequence[Case], restore: Restore | None, measure: Measure, seed: int, folder: Path
) -> Iterator[Measured]:
    for case in cases:
        try:
            pictures = read_case(case)
        except InputError as error:
            yield Measured(case.name, {}, str(error))
            continue
        shown = dict(pictures.results)
        if restore is not None and pictures.lr is not None:
            made = dict(zip(KINDS, restore(pictures.lr, seed, pictures.scale), strict=True))
            for kind, picture in made.items():
                io.write(made_file(folder, kind, case.name), io.Picture(picture))
            shown = made | shown
        yield Measured(case.name, dict(zip(shown, measure(pictures.hr, list(shown.values())), strict=True)))


def made_file(folder: Path, kind: str, name: str) -> Path:
    """Where the output keeps what the cascade made of a picture."""
    return folder / PICTURES / kind / f"{name}.png"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
