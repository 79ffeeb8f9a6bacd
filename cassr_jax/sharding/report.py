"""Plans as a table for a terminal."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from jax.sharding import NamedSharding, PartitionSpec

from cassr_jax.sharding.account import Account
from cassr_jax.sharding.measured import Measured
from cassr_jax.sharding.planned import Plan, axes_in_words
from cassr_jax.sharding.sampled import SamplePlan

Plans = Sequence[Plan] | Sequence[SamplePlan]

_MOST_ROWS = 8  # collectives that are listed for each plan


def table(plans: Plans) -> str:
    """A table with a column for each plan, then the parts and the collectives of each, then what would help."""
    parts = [head(plans), columns(["", *(plan.title for plan in plans)], rows(plans))]
    for plan in plans:
        if isinstance(plan, SamplePlan):
            parts.append(columns(*programs(plan)))
        parts += [_first_collectives(plan)] if plan.account.traffic else []
        if isinstance(plan, Plan) and plan.measured is not None:
            parts.append(columns(*operations(plan, plan.measured)))
        parts += [f"{plan.title}: {line}" for line in plan.advice()]
    return "\n\n".join(parts)


def head(plans: Plans) -> str:
    """What the plans are of, in one line."""
    first = plans[0]
    if isinstance(first, SamplePlan):
        return f"sampling with {first.source}; all figures are for one device and the pictures in hand"
    return f"stage {first.stage}; all figures are for one device and one step"


def rows(plans: Plans) -> list[list[str]]:
    """The rows of the table: a title, and a cell for each plan."""
    accounts = [plan.account for plan in plans]
    times = [account.times for account in accounts]
    found = _row("devices", [_devices(plan) for plan in plans])
    found += _row("mesh", [mesh(plan.account) for plan in plans])
    sampled = [plan for plan in plans if isinstance(plan, SamplePlan)]
    trained = [plan for plan in plans if isinstance(plan, Plan)]
    found += _row("examples a step", [str(plan.examples) for plan in trained])
    found += _row("pictures in hand", [f"{plan.pictures} of {plan.tile} px" for plan in sampled])
    for name in dict.fromkeys(name for account in accounts for name in account.held):
        found += _row(name, [size(account.held.get(name, 0)) for account in accounts])
    found += _row("gradients", [size(plan.gradients) for plan in trained])
    found += _row("activations", [size(plan.activations) for plan in trained])
    found += _row("temporaries", [size(plan.account.temporary) for plan in sampled])
    found += _row("together", [size(account.total) for account in accounts])
    found += _row("  most of all in", [plan.largest.title for plan in sampled])
    found += _row("memory of the chip", ["" if a.capacity is None else size(a.capacity) for a in accounts])
    found += _row("fits", [fits(account) for account in accounts])
    found += _row("FLOPs", [f"{flops(account.flops)}" for account in accounts])
    found += _row("  useful", [flops(plan.useful_flops) for plan in trained])
    found += _row("bytes of memory moved", [size(account.nbytes) for account in accounts])
    found += _row("bytes between devices", [size(sum(row.nbytes for row in a.traffic)) for a in accounts])
    found += _row("seconds, all overlapped", ["" if each is None else seconds(each.least) for each in times])
    found += _row("seconds, nothing overlapped", ["" if each is None else seconds(each.most) for each in times])
    found += _row("seconds, best guess", ["" if each is None else seconds(each.guess) for each in times])
    found += _row("  waiting for other devices", ["" if each is None else f"{each.exposed:.1%}" for each in times])
    measured = [plan.measured for plan in trained]
    found += _row("seconds, measured", ["" if each is None else seconds(each.seconds) for each in measured])
    most = ["" if each is None or each.memory is None else size(each.memory) for each in measured]
    found += _row("memory, measured", most)
    found += _row("images/s, all devices", [_number(plan.images_per_second, ",.1f") for plan in trained])
    found += _row("pictures/s, all devices", [_number(plan.pictures_per_second, ",.2f") for plan in sampled])
    found += _row("share of the peak (MFU)", [_number(plan.utilisation, ".1%") for plan in plans])
    found += _row("hours for all steps", [_number(plan.hours, ",.1f") for plan in trained])
    hours = [None if p.hours is None else p.hours * p.account.devices for p in trained]
    found += _row("device-hours", [_number(each, ",.0f") for each in hours])
    return found


def layout_table(layout: Mapping[str, tuple[tuple[int, ...], NamedSharding | None]]) -> str:
    """Where arrays lie: a line for all that have the same name but for numbers and lie in the same way."""
    rows = Counter()
    for name, (shape, sharding) in layout.items():
        axes = "as the compiler chooses" if sharding is None else _axes(sharding.spec, len(shape))
        rows[re.sub(r"\d+", "*", name), axes] += 1
    return "\n".join(f"{name}: {axes} ({count})" for (name, axes), count in sorted(rows.items()))


def _axes(spec: PartitionSpec, dimensions: int) -> str:
    """The axes of each dimension, such as "- - data+fsdp -"; "?" where the compiler chooses."""
    entries = [*spec, *[None] * (dimensions - len(spec))]
    words = {None: "-", PartitionSpec.UNCONSTRAINED: "?"}
    return " ".join("+".join(each) if isinstance(each, tuple) else str(words.get(each, each)) for each in entries)


def _row(title: str, cells: Sequence[str]) -> list[list[str]]:
    return [[title, *cells]] if any(cells) else []


def programs(plan: SamplePlan) -> tuple[list[str], list[list[str]]]:
    """The programs that pictures go through: the head of a table, and its rows."""
    timed = plan.account.times is not None
    titles = [
        f"{plan.title}, programs",
        "calls",
        "FLOPs",
        "memory moved",
        *(["seconds"] if timed else []),
        "memory held",
    ]
    cells = []
    for part in plan.parts:
        account = part.account
        work = [flops(part.calls * account.flops), size(part.calls * account.nbytes)]
        spent = [seconds(part.seconds)] if timed else []
        cells.append([part.title, f"{part.calls:,}", *work, *spent, size(account.total)])
    return titles, cells


def collectives(plan: Plan | SamplePlan) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: the collectives of one plan, by kind, axes and line; those that take longest first."""
    known = plan.account.times is not None
    titles = [f"{plan.title}, collectives", "over", "calls", "bytes", *(["seconds", "hidden"] if known else []), "from"]
    return titles, [
        [
            row.kind,
            axes_in_words(row),
            f"{row.count:,}{'' if row.known else ' or more'}",
            size(row.nbytes),
            *([seconds(row.seconds), seconds(row.hidden)] if known else []),
            place(row.source),
        ]
        for row in plan.account.traffic
    ]


def _first_collectives(plan: Plan | SamplePlan) -> str:
    """The collectives that take longest, and the sums of the others."""
    known = plan.account.times is not None
    titles, cells = collectives(plan)
    cells = cells[:_MOST_ROWS]
    rest = plan.account.traffic[_MOST_ROWS:]
    if rest:
        more = [seconds(sum(row.seconds for row in rest)), seconds(sum(row.hidden for row in rest))] if known else []
        count, nbytes = (sum(getattr(row, name) for row in rest) for name in ("count", "nbytes"))
        cells.append([f"{len(rest)} more", "", f"{count:,}", size(nbytes), *more, ""])
    return columns(titles, cells)


def operations(plan: Plan, measured: Measured) -> tuple[list[str], list[list[str]]]:
    """The operations that took longest in the steps that were run: the head of a table, and its rows."""
    known = any(row.predicted is not None for row in measured.operations)
    spent = ["measured", *(["predicted"] if known else [])]
    titles = [f"{plan.title}, operations of {measured.calls} steps", "in a step", *spent, "share", "from"]
    whole = sum(row.seconds for row in measured.operations)
    cells = []
    for row in measured.operations[:_MOST_ROWS]:
        times = [seconds(row.seconds), *([seconds(row.predicted)] if row.predicted is not None else [])]
        cells.append([row.kind, f"{row.count:,.0f}", *times, f"{row.seconds / whole:.1%}", place(row.source)])
    return titles, cells


def columns(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Lines of text in columns; the first and the last column of words are left-aligned, numbers right-aligned."""
    widths = [max(len(row[column]) for row in (titles, *cells)) for column in range(len(titles))]
    lines = []
    for row in (titles, *cells):
        first, *others = row
        padded = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def mesh(account: Account) -> str:
    return " ".join(f"{axis} {count}" for axis, count in account.mesh.items() if count > 1) or "one device"


def _devices(plan: Plan | SamplePlan) -> str:
    count = plan.account.devices
    return f"{plan.hosts} x {count}" if isinstance(plan, SamplePlan) and plan.hosts > 1 else str(count)


def fits(account: Account) -> str:
    if account.capacity is None:
        return ""
    return "yes" if account.fits else f"no, {size(account.total - account.capacity)} too much"


def size(nbytes: float) -> str:
    """Bytes for a person: "3.5 GiB"."""
    return f"{nbytes / 2**30:,.2f} GiB" if nbytes >= 2**30 / 10 else f"{nbytes / 2**20:,.1f} MiB"


def flops(count: float) -> str:
    return f"{count / 1e12:,.2f} T" if count >= 1e11 else f"{count / 1e9:,.2f} G"


def seconds(value: float) -> str:
    """Seconds with three digits that say something, in seconds or milliseconds."""
    if value >= 1 or value == 0:
        return f"{value:.2f} s"
    digits = max(2 - math.floor(math.log10(1000 * value)), 0)
    return f"{1000 * value:.{min(digits, 4)}f} ms"


def place(source: str) -> str:
    """The end of a path with a line: "training/step.py:78"."""
    file, _, line = source.rpartition(":")
    return f"{'/'.join(PurePath(file).parts[-2:])}:{line}" if file else "the compiler"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
