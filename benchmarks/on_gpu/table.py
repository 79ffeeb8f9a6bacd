"""The results as a table."""

from collections.abc import Iterator, Sequence
from typing import Any

from cassr_jax.files import Json

_COLUMNS = ("part", "what", "ms", "±", "per s", "of peak", "peak GB", "first s", "error")


def table(content: Json) -> str:
    """A table in Markdown of the results on one kind of device, and below it what was left out.

    `±` is the standard error. `of peak` is the share of the device's peak of FLOP/s, `peak GB` the most memory that was
    in use. `first s` is what the first call took, compilation included; it is empty where JAX's cache spared that.
    `error` is the largest relative error of values.
    """
    device = content["device"]
    lines = [f"{device['kind']}, " + ", ".join(f"{k} {device[k]}" for k in ("jax", "torch") if device.get(k)), ""]
    lines += [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    for name, figures in content["parts"].items():
        lines += map(_line, _rows(name, figures))
    lines += [f"\nLeft out: {name} ({why})." for name, why in content["left_out"].items()]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rows(name: str, figures: Json) -> Iterator[list[str]]:
    if "error" in figures:
        yield [name, figures["error"], *[""] * (len(_COLUMNS) - 2)]
        return
    peak = figures.get("peak_bytes")
    shared = [
        _number(figures.get("examples_per_second"), ".2f"),
        _number(figures.get("flop_utilisation"), ".1%"),
        _number(None if peak is None else peak / 1e9, ".2f"),
    ]
    for what, timing in figures["times"].items():
        errors = figures.get("errors", {}).get(what.partition(",")[0], {})
        error = None if timing["error"] is None else 1e3 * timing["error"]
        yield [
            *(name, what, _number(1e3 * timing["seconds"], ".3f"), _number(error, ".3f"), *shared),
            _number(_first(timing), ".1f"),
            _number(max(errors.values(), default=None), ".1e"),
        ]


def _first(timing: Json) -> float | None:
    if timing.get("read_from_cache"):
        return None
    seconds = [timing.get(f"{what}_seconds") for what in ("trace", "compile", "first")]
    return sum(filter(None, seconds)) if any(seconds) else None


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)
