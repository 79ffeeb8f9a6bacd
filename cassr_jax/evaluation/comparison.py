"""Several programs on the same pictures, measured one picture at a time; what is done is kept.

An output folder belongs to one comparison: `settings.json` says which, `values.jsonl` has a line for each picture that
is finished, `pictures/` what the cascade made of it. Started again, it goes on behind the last whole line.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import KINDS, Restore
from cassr_jax.evaluation.measures import Measure, Values, make_measure
from cassr_jax.evaluation.naturalness import niqe, pristine_statistics
from cassr_jax.evaluation.pairing import Case, read_case
from cassr_jax.evaluation.pyiqa_measures import OfPicture
from cassr_jax.files import replaced, write_json
from cassr_jax.imaging import io
from cassr_jax.imaging.manifest import sha256
from cassr_jax.weights.perceptual import Weights

SETTINGS, VALUES, PICTURES = "settings.json", "values.jsonl", "pictures"


@dataclass(frozen=True)
class Measured:
    """One picture's values, by program, and how long the cascade took; or why it has none.

    `files` is a hash of the pictures that were read.
    """

    name: str
    values: Mapping[str, Values]
    left_out: str = ""
    seconds: float | None = None
    files: str = ""


def make_measures(outside: Mapping[str, OfPicture], vgg16: Weights | None = None) -> tuple[Measure, dict[str, str]]:
    """Every measure of a picture that is at hand, and of NIQE, if it is not, the reason.

    `vgg16` are `lpips_weights("vgg16")` where that LPIPS is asked for too.

    Raises:
        InputError: LPIPS's or DISTS's weights are not installed.
    """
    learned, missing, alone = make_measure(vgg16_params=vgg16), {}, dict(outside)
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


def compare(
    cases: Sequence[Case],
    load: Callable[[], Restore] | None,
    measure: Measure,
    folder: Path,
    settings: Mapping[str, Any],
) -> list[Measured]:
    """Every case measured, those of an earlier start as they were found; one that cannot be read or fitted says so.

    A case whose files have changed since is measured anew.

    Args:
        load: the cascade that restores the cases' LR pictures, called where any is left; None judges results alone.
        settings: what decides the values, JSON's own types; `seed` is that of every picture's noise.

    Raises:
        InputError: see `open_output`; and whatever loading the cascade raises.
    """
    found = open_output(folder, settings)
    left = [case for case in cases if case.name not in found or found[case.name].files != _files_hash(case)]
    if left:
        restore = None if load is None else load()
        with (folder / VALUES).open("a", encoding="utf-8") as stream:
            measuring = _measure_all(left, restore, measure, settings.get("seed", 0), folder)
            for measured in tqdm(measuring, "measuring", len(left), unit="picture"):
                stream.write(json.dumps(asdict(measured)) + "\n")
                stream.flush()
                found[measured.name] = measured
    return [found[case.name] for case in cases]


def _measure_all(
    cases: Sequence[Case], restore: Restore | None, measure: Measure, seed: int, folder: Path
) -> Iterator[Measured]:
    for case in cases:
        try:
            pictures = read_case(case)
        except InputError as error:
            yield Measured(case.name, {}, str(error), files=_files_hash(case))
            continue
        shown, seconds = dict(pictures.results), None
        if restore is not None and pictures.lr is not None:
            start = time.perf_counter()
            made = dict(zip(KINDS, restore(pictures.lr, seed, pictures.scale), strict=True))
            seconds = time.perf_counter() - start
            for kind, picture in made.items():
                io.write(made_file(folder, kind, case.name), io.Picture(picture))
            shown = made | shown
        values = measure(pictures.hr, list(shown.values()))
        yield Measured(case.name, dict(zip(shown, values, strict=True)), seconds=seconds, files=_files_hash(case))


def _files_hash(case: Case) -> str:
    paths = [case.hr, *([] if case.lr is None else [case.lr]), *case.results.values()]
    return hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()


def made_file(folder: Path, kind: str, name: str) -> Path:
    """Where the output keeps what the cascade made of a picture."""
    return folder / PICTURES / kind / f"{name}.png"


def result_file(folder: Path, case: Case, program: str) -> Path:
    """Where a program's picture is: among those that the cascade made, or where it was given."""
    return made_file(folder, program, case.name) if program in KINDS else case.results[program]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
