"""Plans as one HTML page with drawings, which opens without a network."""

from collections.abc import Mapping, Sequence
from html import escape

from cassr_jax.sharding.planned import Plan, axes_in_words
from cassr_jax.sharding.report import Plans, head, operations, place, programs, rows, seconds, size
from cassr_jax.sharding.sampled import SamplePlan

_COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5")
_WIDTH, _BAR, _TITLE = 900, 26, 220  # px

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .15rem .8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; white-space: pre; } tr:nth-child(even) { background: #f4f4f4; }
.key span { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em; vertical-align: -.1em; }
svg text { font: 13px system-ui, sans-serif; } .scroll { overflow-x: auto; }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #ddd; } tr:nth-child(even) { background: #222; } svg text { fill: #ddd; }
}
"""


def page(plans: Plans, command: str) -> str:
    """An HTML page about plans of one training stage or of one cascade.

    Args:
        command: the command that made them, which the page shows.
    """
    what, _, scope = head(plans).partition("; ")
    parts = [
        f"<h1>Plans: {escape(what)}</h1>",
        f"<p>{escape(scope.capitalize())}. <code>{escape(command)}</code></p>",
        _table(["", *(plan.title for plan in plans)], rows(plans)),
        "<h2>Memory</h2>",
        bars([(plan.title, _memory(plan)) for plan in plans], size, limits=[plan.account.capacity for plan in plans]),
    ]
    timed = [plan for plan in plans if plan.account.times is not None]
    if timed:
        parts += ["<h2>Time</h2>", bars([(plan.title, _times(plan)) for plan in timed], seconds)]
        parts.append(
            "<p>It takes at least as long as the longest of the three kinds of work, and at most as long as all of "
            "them one after the other. Products are at the chip's peak, memory and links at their full rate.</p>"
        )
        if len(timed) > 1:
            speeds = [(plan.title, {"images/s on one device": _speed(plan)}) for plan in timed]
            parts += ["<h2>Speed</h2>", bars(speeds, lambda value: f"{value:.2f}")]
    for plan in plans:
        if isinstance(plan, SamplePlan):
            parts += [f"<h2>Programs: {escape(plan.title)}</h2>", _table(*programs(plan))]
        if plan.account.traffic:
            parts += [f"<h2>What is sent between devices: {escape(plan.title)}</h2>", _collectives(plan)]
        if isinstance(plan, Plan) and plan.measured is not None:
            parts += [f"<h2>Measured: {escape(plan.title)}</h2>", _table(*operations(plan, plan.measured))]
        if found := plan.advice():
            parts.append(f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in found)}</ul>")
    start = f'<head><meta charset="utf-8"><title>Plans: {escape(what)}</title><style>{_STYLE}</style></head>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">{start}\n<body>\n{body}\n</body></html>\n'


def bars(given: Sequence[tuple[str, Mapping[str, float]]], say, limits: Sequence[float | None] | None = None) -> str:
    """Horizontal bars, each of several parts, with a key; a stroke marks a bar's limit.

    Args:
        given: the title of each bar, and its parts by name.
        say: the words for a value.
        limits: the limit of each bar; None for none.
    """
    limits = limits or [None] * len(given)
    names = list(dict.fromkeys(name for _, parts in given for name in parts))
    most = max([sum(parts.values()) for _, parts in given] + [limit for limit in limits if limit is not None]) or 1.0
    scale = (_WIDTH - _TITLE - 90) / most
    lines = []
    for number, ((title, parts), limit) in enumerate(zip(given, limits, strict=True)):
        top, left = number * (_BAR + 8), float(_TITLE)
        lines.append(f'<text x="0" y="{top + 18}">{escape(title)}</text>')
        for name, value in parts.items():
            color, width = _COLORS[names.index(name) % len(_COLORS)], value * scale
            label = escape(f"{name}: {say(value)}")
            lines.append(
                f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{color}">'
                f"<title>{label}</title></rect>"
            )
            left += width
        lines.append(f'<text x="{left + 6:.1f}" y="{top + 18}">{escape(say(sum(parts.values())))}</text>')
        if limit is not None:
            at = _TITLE + limit * scale
            lines.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top - 3}" y2="{top + _BAR + 3}" stroke="#d62728" '
                f'stroke-width="2"><title>{escape(say(limit))}</title></line>'
            )
    key = "".join(
        f'<span style="background:{_COLORS[number % len(_COLORS)]}"></span>{escape(name)}'
        for number, name in enumerate(names)
    )
    height = len(given) * (_BAR + 8)
    return (
        f'<p class="key">{key}</p><div class="scroll"><svg width="{_WIDTH}" height="{height}" role="img">'
        f"{''.join(lines)}</svg></div>"
    )


def _memory(plan: Plan | SamplePlan) -> dict[str, float]:
    """The parts of the memory; what the compiler needs beyond them, such as padding, is the last."""
    account = plan.account
    found: dict[str, float] = dict(account.held)
    if isinstance(plan, Plan):
        found |= {"gradients": plan.gradients, "activations": plan.activations}
    else:
        found |= {"temporaries": account.temporary}
    rest = account.total - sum(found.values())
    return found | ({"padding and the batch": rest} if rest > 0 else {})


def _times(plan: Plan | SamplePlan) -> dict[str, float]:
    """The parts of the time: the programs of sampling, or the kinds of work in a step."""
    if isinstance(plan, SamplePlan):
        return {part.title: part.seconds for part in plan.parts}
    times = plan.account.times
    assert times is not None, "only plans with times are drawn"
    return {
        "work on the device": times.work,
        "waiting for other devices": times.collectives - times.hidden,
    }


def _speed(plan: Plan | SamplePlan) -> float:
    times = plan.account.times
    assert times is not None, "only plans with times are drawn"
    images = plan.examples if isinstance(plan, Plan) else plan.pictures
    return images / times.guess / plan.account.devices


def _collectives(plan: Plan | SamplePlan) -> str:
    head = ["collective", "over", "calls", "bytes", "seconds", "hidden", "from"]
    cells = []
    for row in plan.account.traffic:
        times = [seconds(row.seconds), seconds(row.hidden)]
        cells.append([row.kind, axes_in_words(row), f"{row.count:,}", size(row.nbytes), *times, place(row.source)])
    return _table(head, cells)


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    def line(tag: str, row: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>"

    return f'<div class="scroll"><table>{line("th", head)}{"".join(line("td", row) for row in cells)}</table></div>'
