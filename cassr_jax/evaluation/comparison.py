"""The comparison of several programs on the same pictures, in a folder that can be continued.

An output folder belongs to one comparison. `settings.json` says which one it is, `values.jsonl` has a line for each
finished picture, and `pictures/` holds the pictures that the cascade made. A comparison that was stopped continues
after the last whole line.
"""

import hashlib
import json
import math
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cassr_jax.errors import InputError, ran_out
from cassr_jax.evaluation.measures import Measure, Values
from cassr_jax.evaluation.pairing import Case, Pictures, read_case
from cassr_jax.evaluation.restoring import Request, Restore, Restored
from cassr_jax.files import Json, exists, is_file, parse_json, read_json, replaced, write_json
from cassr_jax.imaging import io
from cassr_jax.imaging.manifest import sha256
from cassr_jax.locks import claimed
from cassr_jax.printing import progress_bar

SETTINGS, VALUES, PICTURES = "settings.json", "values.jsonl", "pictures"


@dataclass(frozen=True)
class Measured:
    """One picture's values, or why it has none.

    Attributes:
        name: the picture's name, as in `Case`.
        values: program -> measure -> value.
        left_out: why it has no values; empty if it has some.
        seconds: its share of the cascade's time, which restores several pictures together; None if no cascade
            restored it.
        files: a hash of the files that were read; empty if it is to be tried again.
        undefined: measure -> why it is not defined for this picture.
        traceback: where the program failed at this picture, if that is why it has no values.
    """

    name: str
    values: Mapping[str, Values]
    left_out: str = ""
    seconds: float | None = None
    files: str = ""
    undefined: Mapping[str, str] = field(default_factory=dict)
    traceback: str = ""


def open_output(folder: Path, settings: Mapping[str, object]) -> dict[str, Measured]:
    """Claim `folder` for a comparison with these settings, and read the pictures that it has already measured.

    Raises:
        InputError: the folder holds another comparison, or files that cannot be read as one.
    """
    file = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    if exists(file):
        before = read_json(file)
        if changed := sorted(name for name in before.keys() | settings if before.get(name) != settings.get(name)):
            name = changed[0]
            raise InputError(
                f"{file}: {name} is {_short(before.get(name))}, now {_short(settings.get(name))}; "
                "expected the same, or another --output"
            )
    else:
        write_json(file, settings)
    return {measured.name: measured for measured in _read_values(folder / VALUES)}


def _read_values(file: Path) -> list[Measured]:
    """Read the whole lines of the file, and remove a last line that was cut off when the program was killed.

    Raises:
        InputError: a whole line is damaged.
    """
    if not exists(file):
        return []
    try:
        whole, newline, rest = file.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    if rest:
        with replaced(file) as stream:
            stream.write(whole + newline)
    lines = whole.split(b"\n") if whole else []
    return [_from_line(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)]


def _to_line(measured: Measured) -> str:
    """One line of JSON. JSON has neither NaN nor infinities: NaN is written as null, an infinity as its name."""

    def written(value: float) -> float | str | None:
        if math.isfinite(value):
            return value
        return None if math.isnan(value) else str(value)

    values = {
        program: {name: written(value) for name, value in row.items()} for program, row in measured.values.items()
    }
    return json.dumps(asdict(measured) | {"values": values}, allow_nan=False) + "\n"


def _from_line(line: bytes, where: str) -> Measured:
    """The values in a line of `_to_line`.

    Raises:
        InputError: it is no such line.
    """

    def read(value: object) -> float:
        if value is None:
            return math.nan
        if value in ("inf", "-inf"):
            return float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"a value is {value!r}")
        return float(value)

    data = parse_json(line, where)
    try:
        measured = Measured(**data)
        if not isinstance(measured.name, str):
            raise TypeError(f"the name is {measured.name!r}")
        values = {
            program: {name: read(value) for name, value in row.items()} for program, row in measured.values.items()
        }
    except (TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{where}: not the values of a picture ({error}); delete this line, and the picture is measured again"
        ) from error
    return replace(measured, values=values)


def compare(
    cases: Sequence[Case],
    load: Callable[[], Restore] | None,
    measure: Measure,
    folder: Path,
    settings: Json,
) -> list[Measured]:
    """Measure every case that `folder` has no values of yet; return the values of all cases, in their order.

    A case is measured again if its files have changed since, or a picture that the cascade made is gone. A case has no
    values, but says why, if its pictures cannot be read or have sizes that do not fit, or if the program fails at it,
    for example for lack of memory. Such a failure is tried again at the next start.

    Args:
        cases: the pictures.
        load: loads the cascade that restores the cases' LR pictures, called only if a case is left to measure. None
            measures ready results alone.
        measure: measures the pictures of one case.
        folder: the output folder.
        settings: everything that decides the values, in JSON's own types; `seed` decides the noise of every picture.

    Raises:
        InputError: see `open_output`; another program is writing into the folder; or the cascade cannot be loaded.
    """
    with claimed(folder, "evaluation"):
        found = open_output(folder, settings)
        left = [case for case in cases if not _is_current(found.get(case.name), case, folder)]
        if left:
            restore = None if load is None else load()
            with (folder / VALUES).open("a", encoding="utf-8") as stream:
                measuring = _measure_all(left, restore, measure, settings.get("seed", 0), folder)
                for measured in progress_bar(measuring, desc="measuring", total=len(left), unit="picture"):
                    stream.write(_to_line(measured))
                    stream.flush()
                    found[measured.name] = measured
    return [found[case.name] for case in cases]


@dataclass(frozen=True)
class _Read:
    """A case, its pictures, and the hash of its files."""

    case: Case
    pictures: Pictures
    files: str


def _measure_all(
    cases: Sequence[Case], restore: Restore | None, measure: Measure, seed: int, folder: Path
) -> Iterator[Measured]:
    """Measures the cases in order. A cascade reads some ahead, because it restores several pictures together."""
    if restore is None:
        for read in map(_read, cases):
            yield _measured(read, Restored({}), measure, folder) if isinstance(read, _Read) else read
        return
    waiting: deque[_Read | Measured] = deque()

    def requests() -> Iterator[Request]:
        for case in cases:
            read = _read(case)
            waiting.append(read)
            if isinstance(read, _Read):
                assert read.pictures.lr is not None, "a cascade restores cases that have an LR picture"
                yield Request(read.pictures.lr, seed, read.pictures.scale, case.prompt)

    def unread() -> Iterator[Measured]:
        while waiting and isinstance(first := waiting[0], Measured):
            waiting.popleft()
            yield first

    for outcome in restore(requests()):
        yield from unread()
        read = waiting.popleft()
        assert isinstance(read, _Read), "a cascade gives one outcome for each picture that was read"
        yield _measured(read, outcome, measure, folder)
    yield from unread()


def _read(case: Case) -> _Read | Measured:
    files = ""  # stays empty if a file cannot be read, so that the next start tries again
    try:
        files = _files_hash(case)
        return _Read(case, read_case(case), files)
    except Exception as error:
        return _failed(case, error, files)


def _measured(read: _Read, outcome: Restored | Exception, measure: Measure, folder: Path) -> Measured:
    """The values of a case. The pictures that the cascade made of it are written into `folder`."""
    case = read.case
    try:
        if isinstance(outcome, InputError):
            raise InputError(f"{case.lr}: {outcome}") from outcome
        if isinstance(outcome, Exception):
            raise outcome
        shown = {**outcome.pictures, **read.pictures.results}
        values, undefined = measure(read.pictures.hr, list(shown.values()))
    except Exception as error:
        return _failed(case, error, read.files)
    for program, picture in outcome.pictures.items():
        io.write(made_file(folder, program, case.name), io.Picture(picture))
    named = dict(zip(shown, values, strict=True))
    return Measured(case.name, named, "", outcome.seconds, read.files, undefined)


def _failed(case: Case, error: Exception, files: str) -> Measured:
    """Why a case has no values; one picture must not end the comparison, here and at every restart."""
    if isinstance(error, InputError):
        return Measured(case.name, {}, str(error), files=files)
    return Measured(case.name, {}, _reason(case, error), traceback="".join(traceback.format_exception(error)))


def _reason(case: Case, error: Exception) -> str:
    if ran_out(error):
        return f"{case.hr}: does not fit into memory; a smaller --tile needs less, and so does --precision bf16"
    return f"{case.hr}: {type(error).__name__}: {error}; this is a fault in the program, {VALUES} has its traceback"


def _is_current(measured: Measured | None, case: Case, folder: Path) -> bool:
    """Whether `measured` was made from the case's files as they are now, and the measured pictures are there."""
    try:
        return (
            measured is not None
            and measured.files == _files_hash(case)
            and all(is_file(result_file(folder, case, program)) for program in measured.values)
        )
    except InputError:  # the next attempt to measure it says why it is left out
        return False


def _files_hash(case: Case) -> str:
    """SHA-256 of a case's files.

    Raises:
        InputError: a file cannot be read.
    """
    paths = [case.hr, *([] if case.lr is None else [case.lr]), *case.results.values()]
    return hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()


def made_file(folder: Path, program: str, name: str) -> Path:
    """Where the output folder keeps the picture that the cascade made in the role of `program`."""
    return folder / PICTURES / program.replace(",", "").replace(" ", "_") / f"{name}.png"


def result_file(folder: Path, case: Case, program: str) -> Path:
    """Where a program's picture is: in the folder that was given for that program, or among those the cascade made."""
    return case.results[program] if program in case.results else made_file(folder, program, case.name)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
