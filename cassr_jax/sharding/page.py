"""Plans as one HTML page with drawings, which opens without a network."""

from collections.abc import Sequence
from html import escape

from cassr_jax.sharding.drawing import bars, lines
from cassr_jax.sharding.planned import Plan
from cassr_jax.sharding.report import Plans, collectives, head, operations, programs, rows, seconds, size
from cassr_jax.sharding.sampled import SamplePlan

_LEAST_SHARE = 0.01  # of the time, below which a program has no colour of its own

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .15rem .8rem; text-align: right; white-space: nowrap; }
th { white-space: normal; min-width: 4rem; max-width: 16rem; vertical-align: bottom; }
td:first-child, th:first-child { text-align: left; } td:first-child { white-space: pre; }
tr:nth-child(even) { background: #f4f4f4; }
.key span { display: inline-block; margin-right: 1em; }
.key i { display: inline-block; width: .9em; height: .9em; margin-right: .3em; vertical-align: -.1em; }
svg { display: block; margin-bottom: 1.5rem; } svg text { font: 13px system-ui, sans-serif; fill: currentColor; }
.grid { stroke: currentColor; opacity: .15; } .scroll { overflow-x: auto; } code { overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #ddd; } tr:nth-child(even) { background: #222; }
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
        bars(
            [(plan.title, _memory(plan)) for plan in plans],
            size,
            [plan.account.capacity for plan in plans],
            "memory of the chip",
            _unit(max(plan.account.capacity or plan.account.total for plan in plans)),
        ),
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
            parts += ["<h2>Speed</h2>", bars(speeds, lambda value: f"{value:,.4g} images/s")]
        if scaling := _scaling(plans):
            parts += ["<h2>Scaling</h2>", lines(scaling, "the number of devices", "images/s of all devices")]
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


def _scaling(plans: Plans) -> dict[str, list[tuple[float, float]]]:
    """Title -> (devices, images/s) of what was planned on several numbers of the same devices."""
    found: dict[str, dict[float, float]] = {}
    for plan in plans:
        speed = plan.images_per_second if isinstance(plan, Plan) else plan.pictures_per_second
        if speed is not None:
            title = plan.title.replace(plan.on, plan.on.partition(":")[0])
            hosts = plan.hosts if isinstance(plan, SamplePlan) else 1
            found.setdefault(title, {})[plan.account.devices * hosts] = speed
    return {title: sorted(points.items()) for title, points in found.items() if len(points) > 1}


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


def _unit(most: float) -> float:
    """The unit in which `size` states such an amount."""
    return 2.0**30 if most >= 2**30 / 10 else 2.0**20


def _times(plan: Plan | SamplePlan) -> dict[str, float]:
    """The parts of the time: the programs of sampling, or the kinds of work in a step."""
    if isinstance(plan, SamplePlan):
        whole = sum(part.seconds for part in plan.parts)
        large = {part.title: part.seconds for part in plan.parts if part.seconds > _LEAST_SHARE * whole}
        return large | {"all other programs": whole - sum(large.values())}
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
    (_, *head), cells = collectives(plan)
    return _table(["collective", *head], cells)


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    def line(tag: str, row: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>"

    return f'<div class="scroll"><table>{line("th", head)}{"".join(line("td", row) for row in cells)}</table></div>'
